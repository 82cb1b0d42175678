from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.record.matches import read_half_matches
from reports.compare import compare_command
from reports.faults import fault_gains
from tests.reports import made_up


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for method, ap in (("xpaste", 40.0), ("bsgal", 41.5)):
        box = {"AP": ap, "APr": 30.0, "APc": 38.0, "APf": 44.0}
        metrics: dict[str, dict[str, float | None]] = {"bbox": {**box}, "segm": {k: v - 4 for k, v in box.items()}}
        run = made_up.record(method, 0, metrics, {"method.tau": -0.05 if method == "bsgal" else None})
        run.cost = {"train_seconds": 100.0 if method == "xpaste" else 170.0}
        made_up.write_run(tmp_path / "runs", run, rng, categories=12)
    return tmp_path / "runs"


def test_metrics_configuration_cost_and_categories(runs: Path) -> None:
    folder = compare_command("xpaste", "bsgal", runs, runs.parent / "compared")
    text = (folder / "comparison.md").read_text()
    assert "| AP | 40.00 | 41.50 | +1.50 | 36.00 | 37.50 | +1.50 |" in text
    assert "| method.tau | — | -0.05 |" in text
    assert "| method | xpaste | bsgal |" in text
    assert "data.name" not in text  # equal in both
    assert "| training, s | 100 | 170 | +70 |" in text
    categories = pd.read_csv(folder / "categories.csv", index_col="category_id")
    assert len(categories) == 12
    np.testing.assert_allclose(categories["box_difference"], categories["box_b"] - categories["box_a"])
    page = (folder / "index.html").read_text()
    assert "../runs/" in page
    assert "<svg" in page


def test_faults_of_both_runs_and_what_lies_between(runs: Path) -> None:
    gains = {}
    for place, name in enumerate(("xpaste", "bsgal")):
        folder = next(runs.glob(f"{name}-*"))
        made_up.write_matches(folder, np.random.default_rng(place), 8.0 * place)
        found = read_half_matches(folder, "segm")
        assert found is not None
        gains[name] = fault_gains(found)
    text = (compare_command("xpaste", "bsgal", runs, runs.parent / "compared") / "comparison.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| localisation |"))
    mine, theirs = (gains[name]["localisation"] for name in ("xpaste", "bsgal"))  # type: ignore[index]
    assert line.endswith(f"| {mine:.2f} | {theirs:.2f} | {theirs - mine:+.2f} |".replace("-", "−"))


def test_runs_without_category_figures_compare_as_well(runs: Path) -> None:
    for path in runs.glob("*/per_category.parquet"):
        path.unlink()
    folder = compare_command("xpaste", "bsgal", runs, runs.parent / "compared")
    assert not (folder / "categories.csv").exists()
    assert "<svg" not in (folder / "index.html").read_text()


def test_unknown_and_ambiguous_runs_are_named(runs: Path) -> None:
    with pytest.raises(ValueError, match=r"no record of a run 'xpast-s0'.*did you mean 'xpaste-"):
        compare_command("xpast-s0", "bsgal", runs)
    made_up.write_run(runs, made_up.record("bsgal", 1), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"several runs in .* begin with 'bsgal'"):
        compare_command("xpaste", "bsgal", runs)
