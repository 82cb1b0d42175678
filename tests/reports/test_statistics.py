"""Figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reports.statistics import Difference, differences, discoveries, paired, summarise


def paired_difference(ours: pd.Series, baseline: pd.Series, resamples: int) -> Difference | None:
    tables = [series.to_numpy()[:, None] for series in (ours, baseline)]
    pairs = paired(*tables, ours.index.to_numpy(), baseline.index.to_numpy())
    return differences(pairs, resamples, 0.95)[0]


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


def test_difference_is_paired_by_seed() -> None:
    ours = pd.Series({0: 45.0, 1: 47.0, 2: 50.0, 7: 99.0})  # the baseline lacks seed 7
    base = pd.Series({2: 46.0, 1: 45.0, 0: 44.0, 3: 1.0})
    difference = paired_difference(ours, base, 20_000)
    assert difference is not None
    assert difference.n == 3
    assert difference.mean == pytest.approx((1 + 2 + 4) / 3)
    # Three draws from three values are all the lowest once in 27 times, which is more than 2.5 %; so for the highest.
    assert difference.low == pytest.approx(1.0)
    assert difference.high == pytest.approx(4.0)
    # t = mean / (sd / sqrt n) = 2.6458 with two degrees of freedom: p = 1 - t / sqrt(t^2 + 2).
    t = (7 / 3) / (math.sqrt(7 / 3) / math.sqrt(3))
    assert difference.p == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_one_pair_has_no_interval_and_no_test() -> None:
    difference = paired_difference(pd.Series({0: 2.0}), pd.Series({0: 1.0}), 100)
    assert difference is not None
    assert difference.mean == 1.0
    assert math.isnan(difference.low)
    assert math.isnan(difference.p)
    assert paired_difference(pd.Series({0: 2.0}), pd.Series({1: 1.0}), 100) is None


def test_two_pairs_are_never_tested() -> None:
    difference = paired_difference(pd.Series([9.0, 9.1]), pd.Series([1.0, 1.0]), 100)
    assert difference is not None
    assert math.isnan(difference.p)


def test_many_at_once_equal_each_by_itself() -> None:
    arrays = [np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5]), np.array([0.5, 0.1, -0.3]), np.array([])]
    together = differences(arrays, 300, 0.9)
    for array, found in zip(arrays, together, strict=True):
        (alone,) = differences([array], 300, 0.9)
        assert repr(found) == repr(alone)
    assert together[3] is None


def test_discoveries_by_benjamini_and_hochberg() -> None:
    # Sorted: 0.01 <= 0.05/4, 0.02 <= 0.05*2/4, 0.04 > 0.05*3/4, 0.2: the first two stand.
    assert discoveries([0.2, 0.01, 0.04, 0.02]) == [False, True, False, True]
    assert discoveries([float("nan"), 0.01]) == [False, True]
    assert discoveries([float("nan")]) == [False]
