"""Which of several sets of figures fall into two groups, and where the lines between these lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 8  # figures of a set that is asked about
ROUNDS = 20  # of fitting two Gaussians
ROUNDS_OF_SHARE = 200  # of fitting the share of sets with two groups; each costs nothing
LARGEST_EVIDENCE = math.log(10)  # of one set, which is never exactly what one or two groups are taken to be
SMALLEST_VARIANCE = 1e-3


def in_higher_group(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(N,) bool: which values (N,) float are in the higher of two groups of their label (N,), or in its only one.

    NaN are in none.
    """
    kept: np.ndarray = ~np.isnan(values)
    sets = [np.flatnonzero(kept & (label == each)) for each in np.unique(label[kept])]
    for own, line in zip(sets, dividing_lines([values[own] for own in sets]), strict=True):
        kept[own] = math.isnan(line) | (values[own] >= line)
    return kept


def dividing_lines(sets: Sequence[np.ndarray]) -> np.ndarray:
    """(S,) float64: the figure from which on one of a set (N,) rather belongs to the higher group; NaN for one group.

    Two groups are two Gaussians of one variance. One group is a Gaussian, or a Gumbel distribution of smallest values,
    whose tail of low figures is not a second group. Each set gives evidence for two, by the Bayesian information
    criterion. All sets together say how common two groups are (empirical Bayes), and a set has two where that is then
    the likelier. So what is doubtful in one set is decided by the others. No set counts for more than strong evidence,
    ten to one, so none is parted unless about one in six seems to have two groups.
    """
    lines = np.full(len(sets), math.nan)
    asked = [place for place, each in enumerate(sets) if len(each) >= FEWEST and each.var() > SMALLEST_VARIANCE]
    if asked:
        fits = [_two_gaussians(sets[place]) for place in asked]
        evidence = np.array([fit.likelihood - _one_group(sets[place]) for place, fit in zip(asked, fits, strict=True)])
        # Two groups have two parameters more than one.
        evidence -= np.log([len(sets[place]) for place in asked])
        for place, fit, two in zip(asked, fits, _have_two(evidence), strict=True):
            lines[place] = fit.line() if two else math.nan
    return lines


@dataclass(frozen=True)
class _TwoGaussians:
    mean: np.ndarray
    variance: float
    share: np.ndarray
    likelihood: float  # its logarithm

    def line(self) -> float:
        """Where both groups are equally probable; their means differ, or they would explain no more than one."""
        low, high = np.argsort(self.mean)
        middle = (self.mean[low] + self.mean[high]) / 2
        tilt = math.log(self.share[low] / self.share[high])
        return float(middle + self.variance * tilt / (self.mean[high] - self.mean[low]))


def _two_gaussians(values: np.ndarray) -> _TwoGaussians:
    """The likeliest two of one variance, by expectation-maximisation."""
    mean, variance, share = np.quantile(values, (0.1, 0.9)), float(values.var()) / 4, np.array([0.5, 0.5])
    for _ in range(ROUNDS):
        joint = np.log(share) - 0.5 * ((values[:, None] - mean) ** 2 / variance + math.log(2 * math.pi * variance))
        likelihood = np.logaddexp(joint[:, 0], joint[:, 1])
        belongs = np.exp(joint - likelihood[:, None])
        count = belongs.sum(0) + np.finfo(np.float64).tiny
        mean, share = (belongs * values[:, None]).sum(0) / count, count / count.sum()
        variance = max(float((belongs * (values[:, None] - mean) ** 2).mean(0).sum()), SMALLEST_VARIANCE)
    return _TwoGaussians(mean, variance, share, float(likelihood.sum()))


def _one_group(values: np.ndarray) -> float:
    """The logarithm of the likelihood of the likelier of a Gaussian and a Gumbel distribution of smallest values."""
    from scipy.stats import gumbel_l, norm  # takes half a second, and few runs need it

    return max(float(family.logpdf(values, *family.fit(values)).sum()) for family in (norm, gumbel_l))


def _have_two(evidence: np.ndarray) -> np.ndarray:
    """(S,) bool: in which sets two groups are likelier than one, by all sets' evidence (S,), log Bayes factors.

    What was to be expected of a set is the share of sets with two that makes all sets likeliest, by
    expectation-maximisation.
    """
    factor, share = np.exp(np.minimum(evidence, LARGEST_EVIDENCE)), 0.5
    for _ in range(ROUNDS_OF_SHARE):
        share = float((share * factor / (share * factor + 1 - share)).mean())
    two: np.ndarray = share * factor > 1 - share
    return two
