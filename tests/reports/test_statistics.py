"""Figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reports.differences import paired_runs
from reports.statistics import EQUIVALENT, ImagePart, differences, holm, image_part, summarise


def test_mean_and_sample_standard_deviation() -> None:
    summary = summarise([41.0, 42.0, 46.0])
    assert summary.mean == pytest.approx(43.0)
    assert summary.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert summary.n == 3


def test_a_single_seed_has_no_deviation_and_an_empty_row_no_mean() -> None:
    assert math.isnan(summarise([41.0]).sd)
    nothing = summarise([float("nan")])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)


def test_runs_are_paired_by_seed_and_by_validation_images() -> None:
    ours = pd.DataFrame({"evaluated": ["a", "a", "b", "a"], "x": [45.0, 47.0, 50.0, 99.0]}, index=[0, 1, 2, 7])
    base = pd.DataFrame({"evaluated": ["a"] * 4, "x": [46.0, 45.0, 44.0, 1.0]}, index=[2, 1, 0, 3])
    mine, theirs = paired_runs(ours, base)
    assert list(mine.index) == list(theirs.index) == [0, 1]  # seed 2 saw other images
    assert list(mine["x"] - theirs["x"]) == [1.0, 2.0]


def test_an_interval_over_seeds_is_students() -> None:
    (found,) = differences([np.array([1.0, 2.0, 4.0])], [None], 0.95)
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(7 / 3)
    error = math.sqrt(7 / 3) / math.sqrt(3)
    assert found.low == pytest.approx(7 / 3 - 4.302653 * error)
    assert found.high == pytest.approx(7 / 3 + 4.302653 * error)
    # With two degrees of freedom p = 1 - t / sqrt(t^2 + 2).
    t = (7 / 3) / error
    assert found.p == pytest.approx(1 - t / math.sqrt(t * t + 2))
    late = (7 / 3 - EQUIVALENT) / error
    assert found.equivalent == pytest.approx(0.5 + late / math.sqrt(late * late + 2) / 2)
    assert not found.over_images


def test_an_interval_over_seeds_and_images_by_hand() -> None:
    """Variance between seeds 3, of which 0.6 is what seeds find hard; images 2 for the mean of three: 2 + (3 - 0.6) /
    3. Of it 3 / 3 has two degrees of freedom, the rest 40."""
    from scipy.integrate import quad
    from scipy.stats import t

    values = np.array([-1.0, 0.5, 2.0]) * math.sqrt(3 / 2.25) + 5
    (found,) = differences([values], [ImagePart(2.0, 0.6, 40.0)], 0.95)
    assert found is not None
    variance = 2.8

    def inverse(x: float) -> float:  # x: chi-squared over two degrees of freedom, divided by two, is exponential
        weight = (1 / x) / (1 / x + 1.8)
        return math.exp(-x) * (weight**2 / 2 + (1 - weight) ** 2 / 40)

    freedom = 1 / quad(inverse, 0, math.inf)[0]
    assert found.seeds == pytest.approx(3.0)
    assert found.images == pytest.approx(1.8)
    assert found.high - found.low == pytest.approx(2 * t.ppf(0.975, freedom) * math.sqrt(variance), rel=1e-3)
    assert found.over_images


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_intervals_hold_the_truth_whatever_the_seeds_contribute(n: int, share: float) -> None:
    """Of a difference of 0 whose mean has variance 1, the seeds' share of it; one standard error is 0.2 points."""
    rng = np.random.default_rng(n)
    own = rng.standard_normal((10_000, n)) * math.sqrt(share * n)
    images = rng.chisquare(20, len(own)) / 20 * (1 - share)
    shared = rng.standard_normal((len(own), 1)) * math.sqrt(1 - share)
    found = differences(list(own + shared), [ImagePart(each, 0.0, 20.0) for each in images], 0.95)
    held = np.mean([each.low <= 0 <= each.high for each in found if each])
    assert 0.93 <= held <= 0.963
    assert held == np.mean([each.p > 0.05 for each in found if each])


def test_the_images_part_of_derivatives_by_hand() -> None:
    part = image_part(np.array([[1.0, -1.0, 0.0], [3.0, -1.0, -2.0]]))
    assert part.variance == pytest.approx(2**2 + 1 + 1)
    assert part.interaction == pytest.approx(2 + 0 + 2)
    assert part.freedom == pytest.approx(2 * 36 / (16 + 1 + 1 - 36 / 3))


def test_one_pair_has_no_interval_and_no_test() -> None:
    (found, nothing) = differences([np.array([1.0]), np.array([])], [ImagePart(1.0, 0.0, 9.0), None], 0.95)
    assert found is not None
    assert found.mean == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert nothing is None


def test_two_pairs_have_an_interval_and_are_never_tested() -> None:
    (found,) = differences([np.array([8.0, 8.1])], [None], 0.95)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 12.7062 * 0.05, rel=1e-4)
    assert math.isnan(found.p)
    assert math.isnan(found.equivalent)


def test_equal_differences_are_not_tested() -> None:
    (found,) = differences([np.array([1.0, 1.0, 1.0])], [None], 0.95)
    assert found is not None
    assert (found.low, found.high) == (1.0, 1.0)
    assert math.isnan(found.p)


def test_many_at_once_equal_each_by_itself() -> None:
    arrays = [np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5]), np.array([0.5, 0.1, -0.3]), np.array([])]
    parts = [None, None, ImagePart(0.1, 0.01, 20.0), None]
    together = differences(arrays, parts, 0.9)
    for array, part, found in zip(arrays, parts, together, strict=True):
        assert repr(found) == repr(differences([array], [part], 0.9)[0])


def test_holm_by_hand() -> None:
    # Sorted: 0.01 * 4, 0.02 * 3, 0.04 * 2, 0.2: none smaller than the one before it.
    assert holm([0.2, 0.01, 0.04, 0.02]) == pytest.approx([0.2, 0.04, 0.08, 0.06])
    adjusted = holm([math.nan, 0.01, 0.9])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.9])
