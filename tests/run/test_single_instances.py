"""Runs that select single instances: the same figures for any number of workers, in one life or in several."""

from __future__ import annotations

import signal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from harness.record.decisions import read_decisions
from harness.record.record import Status
from harness.run.run import execute
from reports.decisions import agreement
from tests.run.lives import assert_equal, left_behind, live
from tests.small_training import TINY

SHORT = [
    *TINY,
    "data.pool=half_bad",
    "method.max_samples=6",
    "schedule.iterations=8",
    "schedule.checkpoint_every=2",
    "schedule.ema=0.9",
]
METHODS = {
    "confidence": ["method=confidence"],
    "with_images": ["method=mixed_selection", f"method_paths=[{Path(__file__).with_name('mixed_selection.py')}]"],
}


@pytest.fixture(scope="module", params=[pytest.param("confidence", marks=pytest.mark.slow), "with_images"])
def calm(request: pytest.FixtureRequest, mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a run without workers that nobody disturbs; its name tells the method."""
    runs = tmp_path_factory.mktemp("calm") / request.param
    assert execute([*SHORT, *METHODS[request.param], f"runs_dir={runs}"]).status is Status.complete
    return runs


def test_killed_and_with_two_workers_it_leaves_the_same(calm: Path, tmp_path: Path) -> None:
    overrides = [*SHORT, *METHODS[calm.name], "data.workers=2"]
    assert live(tmp_path, ("_step done", 6), signal.SIGKILL, overrides=overrides) == -signal.SIGKILL
    (checkpoints,) = tmp_path.glob("*/checkpoint")
    saved = max(int(each.name) for each in checkpoints.iterdir() if each.name.isdecimal())
    steps = len((checkpoints.parent / "metrics.jsonl").read_text().splitlines())
    assert 0 < saved < steps < 8, "killed where nothing is lost"
    assert live(tmp_path, overrides=overrides) == 0
    found, expected = left_behind(tmp_path), left_behind(calm)
    for each in (found, expected):
        each["record"][-1].pop("data.workers")
    assert_equal(found, expected)


def test_decisions_are_counted_by_instance(calm: Path) -> None:
    left = left_behind(calm)
    rows = left["tables"]["decisions.parquet"].query("decided")
    kept = list(chain.from_iterable(rows.kept))
    clean = list(chain.from_iterable(rows.clean))
    assert len(kept) == len(clean) == rows.pool_rows.map(len).sum() > len(rows)
    assert not any(chain.from_iterable(rows.kept[~rows.accepted]))
    if calm.name == "with_images":
        assert 0 < sum(kept) < len(kept)
        assert 0 < rows.accepted.mean() < 1
        assert all(0.5 <= weight <= 1.5 for weight in chain.from_iterable(rows.weights))

    record: dict[str, Any] = left["record"][4]
    assert record["acceptance_rate"] == pytest.approx(sum(kept) / len(kept))
    decisions = read_decisions(next(calm.glob("*/record.json")).parent)
    assert decisions is not None
    told = agreement(decisions)
    both = [one and other for one, other in zip(kept, clean, strict=True)]
    assert told["kept_clean"] == pytest.approx(sum(both) / sum(clean))
    assert told["kept_bad"] == pytest.approx((sum(kept) - sum(both)) / (len(kept) - sum(clean)))
    assert left["metrics"][-1]["acceptance"] == record["acceptance_rate"]
