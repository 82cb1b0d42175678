"""Evaluations on the way change no figure of a run, and what they find is the run's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.compose import compose
from harness.errors import UserError
from harness.record.learning_curve import figure_of
from harness.record.record import Record, Status, read_record
from harness.run.run import execute
from tests.small_training import TIMES, TINY

STEPS = ["schedule.iterations=6", "schedule.lr=0.002", "schedule.ema=0.9", "method=xpaste", "data.pool=half_bad"]


def run(runs: Path, *further: str) -> tuple[Path, Record]:
    outcome = execute([*TINY, *STEPS, f"runs_dir={runs}", *further])
    assert outcome.status is Status.complete
    record = read_record(runs, outcome.run_id)
    assert record is not None
    return runs / outcome.run_id, record


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


@pytest.fixture(scope="module")
def watched(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    return run(tmp_path_factory.mktemp("watched"), "evaluation.every=2", "schedule.archive=[3,4]")


def test_training_is_equal_to_the_bit_with_and_without(watched: tuple[Path, Record], tmp_path: Path) -> None:
    folder, record = watched
    plain, alone = run(tmp_path)
    assert plain.name == folder.name, "the same run by the same name"
    assert (record.metrics, record.statistics) == (alone.metrics, alone.statistics)
    assert lines(folder) == lines(plain)
    one, other = (torch.load(place / "checkpoint" / "final.pt", weights_only=True) for place in (folder, plain))
    for part in ("model", "model_ema"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert (alone.curve, [point["iteration"] for point in record.curve]) == ([], [2, 4, 6])
    assert sorted(path.name for path in (plain / "checkpoint").iterdir()) == ["final.pt"]


def test_a_point_holds_what_its_weights_are_worth(watched: tuple[Path, Record]) -> None:
    folder, record = watched
    kept = {path.name: torch.load(path, weights_only=True) for path in (folder / "checkpoint").iterdir()}
    assert sorted(kept) == ["000000003.pt", "000000004.pt", "best.pt", "final.pt"]
    assert not (folder / "evaluation").exists()
    weights = f"weights={folder / 'checkpoint' / '000000004.pt'}"
    *_, again = run(folder.parent, "train=false", weights)
    assert again.metrics == {kind: record.curve[1][kind] for kind in ("bbox", "segm")}
    assert record.curve[-1] == {"iteration": 6, **record.metrics}

    best = max(record.curve[:2], key=lambda point: figure_of(point, "segm.AP"))
    assert kept["best.pt"]["iteration"] == best["iteration"]
    assert kept["best.pt"]["metrics"] == best
    if best["iteration"] == 4:
        for part in ("model", "model_ema"):
            same = kept["000000004.pt"][part]
            assert all(torch.equal(value, same[name]) for name, value in kept["best.pt"][part].items())
    moved = kept["000000004.pt"]
    assert any(not torch.equal(value, moved["model_ema"][name]) for name, value in moved["model"].items())


def test_a_figure_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.best=AP is not a metric; choose from bbox\.AP, "):
        compose(["evaluation.best=AP"])
