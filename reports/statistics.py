"""Over seeds: mean and standard deviation; paired differences with intervals and tests that hold what they say.

A difference is paired by seed: each seed's figure minus the same seed's baseline figure. What its mean would be with
other seeds and other validation images comes from a two-level model: images are common to all seeds, seeds vary, and
seeds differ in which images they find hard. The variance of the mean is put together from these three parts, and the
interval is Student's with Satterthwaite's degrees of freedom, averaged over what few seeds leave open about the parts'
shares. Without matches.parquet only seeds are known, and it is the plain t interval. `tests.benchmarks` simulates how
often these intervals hold the truth (`interval_coverage`), and how often a report of noise earns a star (`star_null`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RATE = 0.05  # of reports of noise that earn a star, at most
LEAST_PAIRS = 3  # below it there is no test over seeds; an interval at two is shown as what it is
EQUIVALENT = 0.5  # points of AP within which two methods pass for equal
QUANTILES = (np.arange(64) + 0.5) / 64  # that the seeds' share of a variance is averaged over


@dataclass(frozen=True)
class Summary:
    """sd is the sample standard deviation (n - 1), NaN for a single value; all NaN and n = 0 for none."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class ImagePart:
    """What the validation images contribute to the variance of a mean of paired differences.

    variance: of the mean over these seeds. interaction: of a single seed's difference, beyond what all seeds share.
    freedom: degrees of freedom of the variance.
    """

    variance: float
    interaction: float
    freedom: float


NO_IMAGES = ImagePart(0.0, 0.0, float("inf"))


@dataclass(frozen=True)
class Difference:
    """Mean paired difference, its interval, n pairs; NaN if there is none.

    p: two-sided, of no difference. equivalent: p of a difference of `EQUIVALENT` or more (two one-sided tests).
    seeds, images: variance between single seeds, and of the mean by the validation images (below 0 by chance).
    over_images: whether these are in the interval.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float
    equivalent: float
    seeds: float
    images: float
    over_images: bool


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


def image_part(influence: np.ndarray) -> ImagePart:
    """Of (n, images): for each seed's difference, its derivatives by the images' weights (`reports.images`)."""
    mean = influence.mean(axis=0)
    squares = float(mean @ mean)
    interaction = float(influence.var(axis=0, ddof=1).sum()) if len(influence) > 1 else 0.0
    # The variance of a sum of squares, by their fourth powers: few images may carry all of a rare category's AP.
    noise = float((mean**4).sum()) - squares**2 / len(mean)
    return ImagePart(squares, interaction, 2 * squares**2 / noise if noise > 0 else float("inf"))


def image_interval(mean: float, part: ImagePart, level: float) -> tuple[float, float]:
    """Of one run's difference to another, over validation images alone."""
    from scipy.special import stdtrit

    half = float(stdtrit(part.freedom, 0.5 + level / 2)) * part.variance**0.5
    return mean - half, mean + half


def differences(
    pairs: Sequence[np.ndarray], images: Sequence[ImagePart | None], level: float
) -> list[Difference | None]:
    """What can be said of each array of paired differences; None for an empty one. images: None if unknown."""
    found: list[Difference | None] = [None] * len(pairs)
    for n in {len(values) for values in pairs} - {0}:
        places = [place for place, values in enumerate(pairs) if len(values) == n]
        table = np.stack([pairs[place] for place in places])
        parts = [images[place] for place in places]
        figures = np.stack(_of_equal_length(table, [part or NO_IMAGES for part in parts], level), axis=1)
        for place, part, row in zip(places, parts, figures.tolist(), strict=True):
            mean, low, high, p, equivalent, seeds, by_images = row
            found[place] = Difference(mean, low, high, n, p, equivalent, seeds, by_images, part is not None)
    return found


def _of_equal_length(table: np.ndarray, parts: list[ImagePart], level: float) -> tuple[np.ndarray, ...]:
    """mean, low, high, p, equivalent, seeds, images of each row of (m, n)."""
    from scipy.special import stdtr, stdtrit  # Student's distribution; all of scipy.stats takes half a second to import

    n, mean = table.shape[1], table.mean(axis=1)
    of_images, interaction, freedom = np.array([[p.variance, p.interaction, p.freedom] for p in parts]).T
    if n < 2:
        unknown = np.full(len(table), np.nan)
        return mean, unknown, unknown, unknown, unknown, unknown, of_images
    seeds = table.var(axis=1, ddof=1)
    error, freedom = standard_error(seeds, n, of_images, interaction, freedom)
    half = stdtrit(freedom, 0.5 + level / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(mean) / error)
        equivalent = stdtr(freedom, (np.abs(mean) - EQUIVALENT) / error)
    untested = (error == 0) | (n < LEAST_PAIRS)
    p, equivalent = np.where(untested, np.nan, p), np.where(untested, np.nan, equivalent)
    return mean, mean - half, mean + half, p, equivalent, seeds, of_images - interaction / n


def standard_error(
    seeds: np.ndarray, n: int, images: np.ndarray, interaction: np.ndarray, freedom: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of a mean over n seeds, with its degrees of freedom, from the variance between seeds and an `ImagePart`'s
    figures.

    Seeds differ by training and by what they find hard; images are common to all seeds but for the latter. So
    seeds / n + images counts interaction / n twice.
    """
    variance = np.maximum(images, interaction / n) + np.maximum(seeds - interaction, 0) / n
    share = np.divide(seeds / n, variance, out=np.ones_like(variance), where=variance > 0)
    return np.sqrt(variance), degrees_of_freedom(np.minimum(share, 1), n, freedom)


def degrees_of_freedom(share: np.ndarray, n: int, freedom: np.ndarray) -> np.ndarray:
    """(m,) of variances that owe a share (m,) in [0, 1] to n seeds and the rest to images, with freedom (m,).

    Satterthwaite's (1946, An approximate distribution of estimates of variance components), if the shares were known.
    Those that a few seeds happen to show are too small just where the variance is; taken at their word, intervals over
    three seeds hold 93 %. So 1 / freedom is averaged over the fiducial distribution of the seeds' variance: what was
    found, divided by chi-squared over its n - 1 degrees of freedom.
    """
    found = share[:, None] * (n - 1) / _chi_squared(n - 1)
    weight = found / (found + (1 - share)[:, None])
    averaged: np.ndarray = 1 / np.mean(weight**2 / (n - 1) + (1 - weight) ** 2 / freedom[:, None], axis=1)
    return averaged


@cache
def _chi_squared(freedom: int) -> np.ndarray:
    """Its quantiles at QUANTILES."""
    from scipy.special import gammaincinv

    quantiles: np.ndarray = 2 * gammaincinv(freedom / 2, QUANTILES)
    return quantiles


def holm(p: Sequence[float]) -> list[float]:
    """p of a family of tests, adjusted so that a single false one among those below `RATE` is no likelier than that
    (Holm 1979, A simple sequentially rejective multiple test procedure); NaN stays and is not counted."""
    values = np.asarray(p, float)
    order = np.argsort(values)[: np.isfinite(values).sum()]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted.tolist()
