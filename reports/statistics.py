"""Over seeds: mean and standard deviation, paired differences with bootstrap intervals, and a test for the stars.

All by SciPy. A difference is paired by seed: each seed's figure minus the same seed's baseline figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

RATE = 0.05  # false discovery rate at which a difference earns a star
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


def summarise(values: pd.Series) -> Summary:
    known = values.dropna().to_numpy(float)
    if not len(known):
        return Summary(float("nan"), float("nan"), 0)
    return Summary(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else float("nan"), len(known))


def paired_difference(ours: pd.Series, baseline: pd.Series, resamples: int, level: float) -> Difference | None:
    """Of two series indexed by seed; None when they share none.

    The interval is SciPy's percentile bootstrap over the pairs, made from a fixed seed; it takes two pairs or more.
    """
    paired = (ours - baseline).dropna().to_numpy(float)
    if not len(paired):
        return None
    low, high = _interval(paired, resamples, level)
    return Difference(float(paired.mean()), low, high, len(paired), _p(paired))


def _interval(values: np.ndarray, resamples: int, level: float) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _p(values: np.ndarray) -> float:
    if len(values) < LEAST_PAIRS or np.ptp(values) == 0:
        return float("nan")
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(values, 0.0).pvalue)


def discoveries(p: list[float]) -> list[bool]:
    """Which of a family of tests stand at the false discovery rate `RATE` (Benjamini-Hochberg); NaN never does."""
    from scipy.stats import false_discovery_control

    tested = [index for index, value in enumerate(p) if np.isfinite(value)]
    found = [False] * len(p)
    if tested:
        for index, adjusted in zip(tested, false_discovery_control([p[i] for i in tested]), strict=True):
            found[index] = bool(adjusted <= RATE)
    return found


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half; NaN without both kinds."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(scores[truth], scores[~truth]).statistic / (positives * negatives))
