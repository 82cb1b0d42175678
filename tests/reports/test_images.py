"""How images move AP, held against AP of resampled images, which `tests/evaluate/test_resampling.py` holds against
evaluations of such images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.record.matches import RankedMatches, read_matches
from harness.record.precision import average_precision
from reports.images import FIGURES, ImageParts, image_influence
from reports.spec import COLUMNS
from tests.reports.made_up import write_matches
from tests.reports.resampling import image_weights, instances_of, resampled_ap


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
        instances = instances_of(matches) @ weight
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
        truth_image=np.array([0, 1]),
        truth_category=np.array([0, 0]),
        instances=np.array([1, 1]),
        frequency=np.array(["r"]),
    )
    ap = resampled_ap(matches, np.array([[1, 1], [2, 0], [0, 2]]))
    np.testing.assert_allclose(ap[:, 0], [51 / 101 / 2, 1.0, 0.0])
    np.testing.assert_allclose(ap[:, 1], ap[:, 0])
    assert np.isnan(ap[:, 2:]).all()


@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_derivatives_say_what_a_thousand_resamples_say(tmp_path: Path, iou: str) -> None:
    write_matches(tmp_path, np.random.default_rng(0), 0.0, images=480)
    matches = read_matches(tmp_path, iou)
    assert matches is not None
    figures, moved = image_influence(matches)
    weights = image_weights(matches.images, 1000)
    resampled = resampled_ap(matches, weights)
    first = list(FIGURES)[:4]
    assert first == ["", "r", "c", "f"]
    np.testing.assert_allclose(figures[:4], resampled_ap(matches, np.ones((1, matches.images), int))[0], atol=0.006)
    np.testing.assert_allclose(moved.sum(axis=1), 0, atol=1e-12)  # all weights doubled change nothing
    # Each category is in forty images: derivatives are stretched by sqrt(40 / 39), which resampling is not.
    np.testing.assert_allclose(np.sqrt((moved[:4] ** 2).sum(axis=1) * 39 / 40), resampled.std(axis=0), rtol=0.08)
    for place in range(4):
        linear = figures[place] + (weights - 1) @ moved[place] * (39 / 40) ** 0.5
        assert np.corrcoef(linear, resampled[:, place])[0, 1] > 0.97


def test_a_category_in_a_single_image_counts_with_its_removal_by_hand() -> None:
    """Two rare categories, of one image each: one is found at all thresholds, one at none. The mean is 1/2, and without
    the first image 0, without the second 1."""
    matches = RankedMatches(
        images=3,
        image=np.array([0]),
        starts=np.array([0, 1, 1]),
        hit=np.ones((10, 1), bool),
        counted=np.ones((10, 1), bool),
        truth_image=np.array([0, 1]),
        truth_category=np.array([0, 1]),
        instances=np.array([1, 1]),
        frequency=np.array(["r", "r"]),
    )
    figures, moved = image_influence(matches)
    places = [list(FIGURES).index(name) for name in ("", "r", "50", "75")]
    np.testing.assert_allclose(figures[places], 0.5)
    np.testing.assert_allclose(moved[places], [[0.5, -0.5, 0.0]] * 4, atol=1e-12)
    assert np.isnan(figures[2:4]).all()


@pytest.mark.parametrize(
    ("half_found", "found", "expected"),
    [
        (5, 5, [0.25**0.5 / 12] * 2),
        (0, 10, [0.0, 0.0]),
        (10, 0, [0.5 / 11] * 2),  # one image varies by more than removal says
        (4, 5, [(1 - 8 / 11) / 10, 8 / 11 / 10]),  # nine categories are too few to tell
    ],
)
def test_removal_is_scaled_down_to_what_one_image_varies_by_by_hand(
    half_found: int, found: int, expected: list[float]
) -> None:
    """Rare categories in two images each, one instance in each. Of some one instance is found: their images' AP, 1 and
    0, has a variance of 1/2; of the others both are, a variance of 0. Two more have a single image, found and not."""
    pairs = half_found + found
    hits = [(c, image) for c in range(pairs) for image in range(1 if c < half_found else 2)] + [(pairs, 2)]
    truth = [(c, image) for c in range(pairs) for image in range(2)] + [(pairs, 2), (pairs + 1, 3)]
    category, image = np.array(hits).T
    truth_category, truth_image = np.array(truth).T
    matches = RankedMatches(
        images=4,
        image=image,
        starts=np.searchsorted(category, np.arange(pairs + 3)),
        hit=np.ones((10, len(hits)), bool),
        counted=np.ones((10, len(hits)), bool),
        truth_image=truth_image,
        truth_category=truth_category,
        instances=np.ones(len(truth), int),
        frequency=np.array(["r"] * (pairs + 2)),
    )
    moved = image_influence(matches)[1][list(FIGURES).index("r"), 2:]
    assert (moved[0] >= 0, moved[1] <= 0) == (True, True)
    np.testing.assert_allclose((moved**2).sum(), np.square(expected).sum(), atol=1e-12)


def test_a_run_against_itself_has_no_images_part(run: Path) -> None:
    runs = [run.name, run.name]
    part = ImageParts(run.parent).of(runs, runs, COLUMNS["APr_box"])
    assert part is not None
    assert (part.variance, part.interaction) == (0.0, 0.0)


def test_the_images_part_needs_both_runs_and_a_figure_of_all_sizes(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 8.0)):
        (tmp_path / name).mkdir()
        write_matches(tmp_path / name, np.random.default_rng(1), gain)
    parts = ImageParts(tmp_path)
    part = parts.of(["b"], ["a"], COLUMNS["AP_box"])
    assert part is not None
    assert 0.1 < part.variance**0.5 < 5  # of 100
    assert parts.of(["b"], ["gone"], COLUMNS["AP_box"]) is None
    assert parts.of(["b"], ["a"], COLUMNS["APs_box"]) is None
