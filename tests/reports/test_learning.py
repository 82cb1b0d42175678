"""The figure of learning is made of what runs leave: their metrics, and the curves of their records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.record.record import write_record
from reports.command import report_command
from reports.figure_learning import BINS, _curve, _losses, _mean
from tests.reports.made_up import record, results


def write_metrics(folder: Path, steps: int = 400) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"iteration": i, "total": steps, "loss": float(i % 10)} for i in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_losses_are_averaged_over_stretches_and_curves_over_seeds(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    line = _losses(tmp_path / "metrics.jsonl")
    assert line is not None
    np.testing.assert_array_equal(line[0], np.arange(1, BINS + 1) * 10)
    np.testing.assert_allclose(line[1], 4.5)
    assert _losses(tmp_path / "none.jsonl") is None
    points = [{"iteration": i, "bbox": {"APr": value}} for i, value in ((2, None), (4, 3.0), (6, 5.0))]
    one = _curve(points, "bbox", "APr")
    assert one is not None
    iterations, values = _mean([one, (np.array([4.0]), np.array([1.0]))])
    assert (iterations.tolist(), values.tolist()) == ([4.0, 6.0], [2.0, 5.0])


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_report_shows_it_where_there_is_something_to_show(evaluated: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("baseline", "bsgal"):
        for seed in range(2):
            curve = [{"iteration": i, **results(rng, 20 + i / 100, 0)} for i in (200, 400)] if evaluated else []
            made = record(name, seed, results(rng, 30, 0), {"data.pool": "half_bad"}, curve=curve)
            write_record(tmp_path / "runs", made)
            if evaluated:
                write_metrics(tmp_path / "runs" / made.run_id)
    folder = report_command("mini", tmp_path / "runs", ["html"], out=tmp_path / "report")
    page = (folder / "index.html").read_text()
    assert ("figure-learning" in page) == (folder / "figure-learning.svg").is_file() == evaluated
    if evaluated:
        drawn = (folder / "figure-learning.svg").read_text()
        assert all(f">{title}<" in drawn for title in ("loss", "box AP", "mask APr"))
