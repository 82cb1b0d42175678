"""AP of resampled images, exactly and slowly: what `reports.images` is held against."""

from __future__ import annotations

import numpy as np

from harness.record.matches import RankedMatches

GROUPS = ("rcf", "r", "c", "f")  # the categories that AP, APr, APc, APf are means of
RECALLS = np.linspace(0.0, 1.0, 101)
SEED = 2406


def instances_of(matches: RankedMatches) -> np.ndarray:
    """(C, images) int64: how many instances of each category each image holds."""
    instances = np.zeros((len(matches.frequency), matches.images), np.int64)
    instances[matches.truth_category, matches.truth_image] = matches.instances
    return instances


def image_weights(images: int, resamples: int) -> np.ndarray:
    """(resamples, images) int64: how often each image appears; the same for every run over as many images."""
    return np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_ap(matches: RankedMatches, weights: np.ndarray) -> np.ndarray:
    """AP, APr, APc, APf as fractions for each row of weights (S, images): (S, 4) float64, NaN where undefined.

    Weights of one give the evaluation's own figures.
    """
    ap = np.full((len(weights), len(matches.frequency)), np.nan)
    of_image = instances_of(matches)
    for category in np.flatnonzero(matches.frequency != ""):
        instances = weights @ of_image[category]
        rows = slice(matches.starts[category], matches.starts[category + 1])
        times = weights[:, matches.image[rows]]
        ap[:, category] = _average_precision(matches.hit[:, rows], matches.counted[:, rows], times, instances)
    columns = [ap[:, np.isin(matches.frequency, list(letters))] for letters in GROUPS]
    with np.errstate(invalid="ignore"):
        return np.stack([np.nansum(c, axis=1) / np.isfinite(c).sum(axis=1) for c in columns], axis=1)


def _average_precision(hit: np.ndarray, counted: np.ndarray, times: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """(S,) AP of one category over T IoU thresholds and 101 recalls.

    hit, counted (T, D) by threshold and detection; times (S, D): how often each detection's image appears; instances
    (S,). Precision is taken at every detection that hits at some threshold: where it does not at this one, its
    precision is below that of the hit before it, at the same recall, and changes nothing.
    """
    places = np.flatnonzero(hit.any(axis=0))
    if not len(places):
        return np.where(instances > 0, 0.0, np.nan)
    patterns, of_threshold = np.unique(counted, axis=0, return_inverse=True)  # thresholds mostly share one
    ranked = np.stack([np.cumsum(times * pattern, axis=1)[:, places] for pattern in patterns])[of_threshold.ravel()]
    true = np.cumsum(times[None, :, places] * hit[:, None, places], axis=2)
    precision = true / (ranked + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    # Each hit answers for the recalls that it is the first to reach; how many are reached, by instances and hits:
    counts, of_resample = np.unique(instances, return_inverse=True)
    recalls = np.arange(counts[-1] + 1) / np.maximum(counts, 1)[:, None]
    reached = np.searchsorted(RECALLS, recalls, side="right")[of_resample[:, None], true]
    reached[true == 0] = 0
    answered = np.diff(reached, axis=2, prepend=0)
    ap = (envelope * answered).sum(axis=2) / len(RECALLS)
    return np.where(instances > 0, ap.mean(axis=0), np.nan)
