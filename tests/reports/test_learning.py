"""The learning curves: what is drawn is what the runs left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reports import style
from reports.collect import collect
from reports.figure_learning import draw_learning
from reports.spec import read_spec
from tests.reports import made_up


def test_losses_in_bins_and_ap_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        metrics = {"bbox": {"AP": 40.0 + 2 * seed}, "segm": {"AP": 30.0}}
        run = made_up.record("bsgal", seed, metrics, cost={"iterations": 200.0})
        made_up.write_run(tmp_path / "runs", run, np.random.default_rng(0))
        made_up.write_metrics(tmp_path / "runs" / run.run_id, np.random.default_rng(seed), 200)
    (tmp_path / "one.yaml").write_text("rows: {bsgal: {}}\ncolumns: [AP_box]")
    spec = read_spec(str(tmp_path / "one.yaml"))
    drawn = []
    monkeypatch.setattr(style, "picture", lambda canvas, *words: drawn.append((canvas, words)) or words)
    with style.styled():
        draw_learning(spec, collect(spec, tmp_path / "runs"))
    ((canvas, words),) = drawn
    loss, ap = (axis.lines[0] for axis in canvas.axes)
    np.testing.assert_allclose(ap.get_xydata(), [[50, 15], [100, 20], [150, 25], [200, 41]])
    assert loss.get_xdata()[0] == 10
    assert loss.get_ydata()[0] > 3 > 2 > loss.get_ydata()[-1]
    assert "2 seeds a row" in words[-1]


def test_runs_without_metrics_have_none(tmp_path: Path) -> None:
    made_up.write_run(tmp_path / "runs", made_up.record("bsgal", 0), np.random.default_rng(0))
    (tmp_path / "one.yaml").write_text("rows: {bsgal: {}}\ncolumns: [AP_box]")
    spec = read_spec(str(tmp_path / "one.yaml"))
    assert draw_learning(spec, collect(spec, tmp_path / "runs")) is None
