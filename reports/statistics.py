"""Over seeds: mean and standard deviation, paired differences with bootstrap intervals, and a test for the stars.

All by SciPy. A difference is paired by seed: each seed's figure minus the same seed's baseline figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RATE = 0.05  # false discovery rate at which a difference earns a star
LARGEST = 4_000_000  # figures of resamples in memory at a time
LEAST_PAIRS = 3  # below it a t-test over seeds has no power worth printing


@dataclass(frozen=True)
class Summary:
    """sd is the sample standard deviation (n - 1), NaN for a single value; all NaN and n = 0 for none."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean paired difference, its interval, n pairs, and the t-test's two-sided p; NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int
    p: float


def summarise(values: ArrayLike) -> Summary:
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    if not len(known):
        return Summary(float("nan"), float("nan"), 0)
    return Summary(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else float("nan"), len(known))


def paired(ours: np.ndarray, baseline: np.ndarray, seeds: np.ndarray, baseline_seeds: np.ndarray) -> list[np.ndarray]:
    """Of (n, columns) and (m, columns) with their seeds (n,) and (m,): for each column the differences, over the seeds
    that both have a figure for."""
    _, mine, theirs = np.intersect1d(seeds, baseline_seeds, return_indices=True)
    return [values[~np.isnan(values)] for values in (ours[mine] - baseline[theirs]).T]


def differences(pairs: Sequence[np.ndarray], resamples: int, level: float) -> list[Difference | None]:
    """What can be said of each array of paired differences; None for an empty one.

    The intervals are SciPy's percentile bootstrap over the pairs, made from a fixed seed; they take two pairs or more.
    Arrays of equal length are handled in one call.
    """
    found: list[Difference | None] = [None] * len(pairs)
    for n in {len(values) for values in pairs} - {0}:
        places = [place for place, values in enumerate(pairs) if len(values) == n]
        table = np.stack([pairs[place] for place in places])
        low, high = _intervals(table, resamples, level)
        for index, (place, p) in enumerate(zip(places, _p(table), strict=True)):
            found[place] = Difference(float(table[index].mean()), float(low[index]), float(high[index]), n, float(p))
    return found


def _intervals(table: np.ndarray, resamples: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the mean of each row of (m, n)."""
    if table.shape[1] < 2:
        return np.full(len(table), np.nan), np.full(len(table), np.nan)
    from scipy.stats import bootstrap

    batch = max(1, LARGEST // table.size)
    rng = np.random.default_rng(0)
    options = {"n_resamples": resamples, "confidence_level": level, "method": "percentile", "batch": batch, "rng": rng}
    interval = bootstrap((table,), np.mean, axis=-1, **options).confidence_interval
    return np.atleast_1d(interval.low), np.atleast_1d(interval.high)


def _p(table: np.ndarray) -> np.ndarray:
    """Of a two-sided t-test of each row of (m, n); NaN where there are too few pairs, or all are equal."""
    if table.shape[1] < LEAST_PAIRS:
        return np.full(len(table), np.nan)
    from scipy.stats import ttest_1samp

    p = np.full(len(table), np.nan)
    varied = np.ptp(table, axis=1) > 0
    if varied.any():
        p[varied] = ttest_1samp(table[varied], 0.0, axis=1).pvalue
    return p


def discoveries(p: list[float]) -> list[bool]:
    """Which of a family of tests stand at the false discovery rate `RATE` (Benjamini-Hochberg); NaN never does."""
    from scipy.stats import false_discovery_control

    tested = [index for index, value in enumerate(p) if np.isfinite(value)]
    found = [False] * len(p)
    if tested:
        for index, adjusted in zip(tested, false_discovery_control([p[i] for i in tested]), strict=True):
            found[index] = bool(adjusted <= RATE)
    return found
