"""Whether figures fall into two groups, and where the line between these lies."""

from __future__ import annotations

import math

import numpy as np

FEWEST = 8  # figures that are asked about
ROUNDS = 20
SMALLEST_VARIANCE = 1e-3


def dividing_line(values: np.ndarray) -> float:
    """The figure from which on one of values (N,) float rather belongs to the higher group; NaN where there is one.

    Two Gaussians of one variance are fitted by expectation-maximisation. They are two groups where that explains the
    values better than one Gaussian by more than its two further parameters cost (Bayesian information criterion).
    """
    spread = float(values.var())
    if len(values) < FEWEST or spread <= SMALLEST_VARIANCE:
        return math.nan
    mean, variance, share = np.quantile(values, (0.1, 0.9)), spread / 4, np.array([0.5, 0.5])
    for _ in range(ROUNDS):
        joint = np.log(share) - 0.5 * (values[:, None] - mean) ** 2 / variance
        likelihood = np.logaddexp(joint[:, 0], joint[:, 1])
        belongs = np.exp(joint - likelihood[:, None])
        count = belongs.sum(0) + np.finfo(np.float64).tiny
        mean, share = (belongs * values[:, None]).sum(0) / count, count / count.sum()
        variance = max(float((belongs * (values[:, None] - mean) ** 2).mean(0).sum()), SMALLEST_VARIANCE)
    return _line(mean, variance, share) if _gain(values, likelihood, variance, spread) > 0 else math.nan


def _gain(values: np.ndarray, likelihood: np.ndarray, variance: float, spread: float) -> float:
    """By how much the criterion prefers two Gaussians to one; what both have in common is left out."""
    two = likelihood.sum() - 0.5 * len(values) * math.log(variance)
    one = -0.5 * len(values) * (math.log(spread) + 1)
    return float(2 * (two - one) - 2 * math.log(len(values)))


def _line(mean: np.ndarray, variance: float, share: np.ndarray) -> float:
    """Where both groups are equally probable; their means differ, or they would explain no more than one."""
    low, high = np.argsort(mean)
    middle = (mean[low] + mean[high]) / 2
    return float(middle + variance * math.log(share[low] / share[high]) / (mean[high] - mean[low]))
