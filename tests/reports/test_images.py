"""AP under resampled images; `tests/evaluate/test_resampling.py` holds it against evaluations of such images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.evaluate.precision import average_precision
from harness.record.matches import RankedMatches, read_matches
from reports.images import ImageIntervals, image_weights, resampled_ap
from reports.spec import COLUMNS, Intervals
from tests.reports.made_up import matched_figures, write_matches


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_matches(tmp_path, np.random.default_rng(0), 0.0)
    return tmp_path


@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_equal_to_the_evaluations_average_precision(run: Path, iou: str) -> None:
    matches = read_matches(run, iou)
    assert matches is not None
    weights = image_weights(matches.images, 10)
    category = np.repeat(np.arange(len(matches.starts) - 1), np.diff(matches.starts))
    for weight, found in zip(weights, resampled_ap(matches, weights), strict=True):
        rows = np.repeat(np.arange(len(matches.image)), weight[matches.image])  # each as often as its image appears
        starts = np.searchsorted(category[rows], np.arange(len(matches.starts)))
        instances = matches.instances @ weight
        thresholds = zip(matches.hit[:, rows], matches.counted[:, rows], strict=True)
        ap = np.mean([average_precision(hit, counted, starts, instances)[0] for hit, counted in thresholds], axis=0)
        expected = [np.nanmean(ap[np.isin(matches.frequency, list(group))]) for group in ("rcf", "r", "c", "f")]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_image_drawn_twice_counts_twice_by_hand() -> None:
    """One category, two images with one instance each; the detection in the first is a hit, in the second a miss that
    scores higher. Drawn once each: precision 1/2 up to recall 1/2. The first alone, twice: everything is found."""
    matches = RankedMatches(
        images=2,
        image=np.array([1, 0]),
        starts=np.array([0, 2]),
        hit=np.array([[False, True]] * 10),
        counted=np.ones((10, 2), bool),
        instances=np.array([[1, 1]]),
        frequency=np.array(["r"]),
    )
    ap = resampled_ap(matches, np.array([[1, 1], [2, 0], [0, 2]]))
    np.testing.assert_allclose(ap[:, 0], [51 / 101 / 2, 1.0, 0.0])
    np.testing.assert_allclose(ap[:, 1], ap[:, 0])
    assert np.isnan(ap[:, 2:]).all()


def test_the_interval_of_a_run_against_itself_is_nought(run: Path) -> None:
    intervals = ImageIntervals(run.parent, Intervals("images", 50, 0.95))
    runs = pd.Series({0: run.name})
    assert intervals.of(runs, runs, COLUMNS["APr_box"]) == (0.0, 0.0)


def test_intervals_hold_the_difference_and_need_both_runs(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 8.0)):
        (tmp_path / name).mkdir()
        write_matches(tmp_path / name, np.random.default_rng(1), gain)
    intervals = ImageIntervals(tmp_path, Intervals("images", 200, 0.95))
    low, high = intervals.of(pd.Series({0: "b"}), pd.Series({0: "a", 1: "a"}), COLUMNS["AP_box"])
    a, b = (matched_figures(tmp_path / name)["bbox"]["AP"] or 0.0 for name in ("a", "b"))
    assert low < b - a < high
    for column, other in (("AP_box", "gone"), ("AP50_box", "a")):
        found = intervals.of(pd.Series({0: "b"}), pd.Series({0: other}), COLUMNS[column])
        assert np.isnan(found).all()
