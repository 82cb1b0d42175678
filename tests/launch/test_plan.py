"""Which arrays a sweep's runs make, and what they wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.config import LauncherConfig
from harness.launch import queue, slurm
from harness.launch.slurm import Array, plan
from harness.record.manifest import ExpectedRun


@pytest.fixture(autouse=True)
def largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "largest_array", lambda: 1000)


def _run(name: str, *parents: str, minutes: int = 60) -> ExpectedRun:
    resources = asdict(LauncherConfig(name="slurm", minutes=minutes)) | {"ranks": 1}
    return ExpectedRun(name, name, [], {}, parents=list(parents), resources=resources)


def _family(seeds: int, methods: Sequence[str]) -> list[ExpectedRun]:
    parents = [_run(f"baseline-{seed}") for seed in range(seeds)]
    return parents + [_run(f"{name}-{seed}", f"baseline-{seed}") for seed in range(seeds) for name in methods]


def _dependencies(arrays: Sequence[Array]) -> list[str | None]:
    """What each would wait for, had SLURM numbered them 100, 200, ..."""
    jobs: dict[str, str] = {}
    found = []
    for number, array in enumerate(arrays, 1):
        found.append(array.dependency(jobs))
        several = len(array.runs) > 1
        jobs |= {run.run_id: f"{number}00_{i}" if several else f"{number}00" for i, run in enumerate(array.runs)}
    return found


def test_families_make_one_array_a_row(tmp_path: Path) -> None:
    """360 runs, 90 parents with three children each: four times sbatch."""
    arrays = plan(tmp_path, "s", _family(90, ["a", "b", "c"]), {})
    assert [len(array.runs) for array in arrays] == [90, 90, 90, 90]
    assert _dependencies(arrays) == [None, "aftercorr:100", "aftercorr:100", "aftercorr:100"]
    for array in arrays[1:]:
        assert [run.parents for run in array.runs] == [[run.run_id] for run in arrays[0].runs]
        assert [run.run_id for run in array.runs] == array.submission.run_ids


def test_children_of_some_parents_wait_for_those(tmp_path: Path) -> None:
    runs = [*_family(3, []), _run("c", "baseline-2"), _run("d", "baseline-0", "baseline-1")]
    assert _dependencies(plan(tmp_path, "s", runs, {})) == [None, "afterany:100_2", "afterany:100_0:100_1"]


def test_one_parent_is_waited_for_as_a_job(tmp_path: Path) -> None:
    runs = [*_family(1, ["a", "b"]), _run("c", "a-0")]
    arrays = plan(tmp_path, "s", runs, {})
    assert set(_dependencies(arrays)[1:]) == {"afterany:100", "afterany:200"}


def test_parents_under_way_are_waited_for_by_their_jobs(tmp_path: Path) -> None:
    runs = _family(2, ["a"])[2:]
    arrays = plan(tmp_path, "s", runs, {"baseline-0": "7_0", "baseline-1": "7_1"})
    assert _dependencies(arrays) == ["afterany:7_0", "afterany:7_1"]


def test_other_resources_make_other_arrays_and_grandchildren_follow(tmp_path: Path) -> None:
    runs = _family(2, ["a"])
    runs[2].resources["minutes"] = runs[3].resources["minutes"] = 90
    runs += [_run(f"g-{seed}", f"a-{seed}", f"baseline-{seed}") for seed in range(2)]
    arrays = plan(tmp_path, "s", runs, {})
    assert _dependencies(arrays) == [None, "aftercorr:100", "aftercorr:100,aftercorr:200"]


def test_arrays_are_no_larger_than_slurm_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "largest_array", lambda: 2)
    arrays = plan(tmp_path, "s", _family(3, ["a"]), {})
    assert [len(array.runs) for array in arrays] == [2, 1, 2, 1]
    assert _dependencies(arrays) == [None, None, "aftercorr:100", "afterany:200"]


def test_split_parents_are_all_waited_for(tmp_path: Path) -> None:
    parent, child = plan(tmp_path, "s", _family(2, ["a"]), {})
    assert child.dependency({"baseline-0": "7", "baseline-1": "8"}) == "afterany:7:8"
    manifest = slurm.Manifest("s", "", None, [], [parent.submission, child.submission])
    first, second = slurm._split(child, 1, tmp_path, manifest)
    assert first.dependency({"baseline-0": "7", "baseline-1": "8"}) == "afterany:7"
    assert second.dependency({"baseline-0": "7", "baseline-1": "8"}) == "afterany:8"
    assert manifest.submissions == [parent.submission, first.submission, second.submission]
