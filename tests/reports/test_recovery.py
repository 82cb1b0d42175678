"""What rows recover of an oracle's gain, against Fieller's interval by its own formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy  # loads what is used of it when that is used
from typer.testing import CliRunner

from harness.cli import app
from harness.record.record import write_record
from reports.collect import collect
from reports.recovery import Recovery, find_recoveries
from reports.spec import read_spec
from tests.reports.made_up import record

SPEC = """
rows:
  xpaste: {label: all}
  half: {label: half}
  oracle: {label: oracle}
columns: [APr_box]
baseline: xpaste
gain: {of: oracle, over: xpaste}
"""
KEPT = [40.0, 43.0, 41.0, 42.5]


def recovered(folder: Path, half: list[float], oracle: list[float]) -> Recovery:
    runs = folder / "runs"
    for name, figures in (("xpaste", KEPT), ("half", half), ("oracle", oracle)):
        for seed, figure in enumerate(figures):
            write_record(runs, record(name, seed, {"bbox": {"APr": figure}, "segm": {"APr": figure}}))
    (folder / "spec.yaml").write_text(SPEC)
    spec = read_spec(str(folder / "spec.yaml"))
    collection = collect(spec, runs)
    (found,) = find_recoveries(spec, collection).values()
    return found


def fieller(ours: np.ndarray, oracle: np.ndarray) -> tuple[float, float]:
    """The roots of (mean a − s mean b)² = q² var(a − s b) / n."""
    n, q = len(ours), scipy.stats.t.ppf(0.975, len(ours) - 1)
    a, b = ours - KEPT, oracle - KEPT
    (aa, ab), (_, bb) = np.cov(a, b) * q**2 / n
    roots = np.roots([b.mean() ** 2 - bb, -2 * (a.mean() * b.mean() - ab), a.mean() ** 2 - aa])
    return tuple(np.sort(roots.real).tolist())


def test_a_share_and_its_interval_are_fiellers(tmp_path: Path) -> None:
    half, oracle = np.array([45.5, 47.0, 46.5, 46.0]), np.array([50.0, 53.5, 51.0, 52.0])
    found = recovered(tmp_path, half.tolist(), oracle.tolist())
    assert found.share == pytest.approx((half.mean() - np.mean(KEPT)) / (oracle.mean() - np.mean(KEPT)))
    assert (found.low, found.high) == pytest.approx(fieller(half, oracle), abs=0.011)
    assert found.low < found.share < found.high
    assert found.n == 4


def test_without_a_gain_that_is_told_from_noise_there_is_no_interval(tmp_path: Path) -> None:
    found = recovered(tmp_path, [41.0, 42.0, 43.0, 41.0], [39.0, 46.0, 40.0, 44.0])
    assert np.isnan([found.low, found.high]).all()


def test_the_report_says_it_in_every_format_and_on_the_terminal(mini: Path, tmp_path: Path) -> None:
    title = "Share of Oracle's gain over X-Paste in AP_r^box"
    table = pd.read_csv(mini / "table.csv").set_index("row")
    share = table.loc["bsgal", "recovered"]
    assert share == pytest.approx(
        (table.loc["bsgal", "APr_box"] - table.loc["xpaste", "APr_box"])
        / (table.loc["oracle", "APr_box"] - table.loc["xpaste", "APr_box"])
    )
    assert np.isnan(table.loc["oracle", "recovered"])
    text = (mini / "table.md").read_text()
    assert title.replace("_", "\\_") in text
    assert f"| BSGAL | {100 * share:.0f}" in text.replace("−", "-")
    assert title.replace("'", "&#39;") in (mini / "index.html").read_text()
    shown = CliRunner().invoke(app, ["report", "mini", "--runs", str(mini.parent / "runs"), "--out", str(tmp_path)])
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert any(line.startswith(title) for line in lines)
    assert any(line.startswith("BSGAL") and f" {100 * share:.0f}" in line.replace("−", "-") for line in lines)


def test_a_gain_names_two_rows(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(SPEC.replace("over: xpaste", "over: xpast"))
    with pytest.raises(ValueError, match="no row is called 'xpast'"):
        read_spec(str(tmp_path / "odd.yaml"))
    (tmp_path / "odd.yaml").write_text(SPEC.replace(", over: xpaste", ""))
    with pytest.raises(ValueError, match="gain names two rows"):
        read_spec(str(tmp_path / "odd.yaml"))


@pytest.mark.parametrize(
    ("seeds", "why"),
    [(1, "No interval with a single seed that all three rows have."), (2, "No interval where the noise")],
)
def test_why_there_is_no_interval_is_said(tmp_path: Path, seeds: int, why: str) -> None:
    recovered(tmp_path, [45.5, 38.0][:seeds], [48.0, 41.0][:seeds])
    words = ["report", str(tmp_path / "spec.yaml"), "--runs", str(tmp_path / "runs"), "--format", "md"]
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")]).exit_code == 0
    assert why in (tmp_path / "out" / "table.md").read_text()
