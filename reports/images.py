"""Intervals over the validation images: AP under resampling with replacement, from what an evaluation left behind.

No detection is matched again. Two runs are compared under the same resamples, so that what makes an image hard for
both cancels out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.record.matches import RankedMatches, read_matches
from reports.spec import IOU_TYPES, Column, Intervals

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {"": "rcf", "r": "r", "c": "c", "f": "f"}  # a column's subscript and the categories it is the mean of
RECALLS = np.linspace(0.0, 1.0, 101)
SEED = 2406


@dataclass
class ImageIntervals:
    """Intervals of paired differences; remembers what was computed, since rows share their baselines."""

    runs: Path
    intervals: Intervals
    _resampled: dict[tuple[str, str], np.ndarray | None] = field(default_factory=dict)

    def of(self, ours: pd.Series, baseline: pd.Series, column: Column) -> tuple[float, float]:
        """ours, baseline: run_ids by seed. NaN where a run has left no matches, or the column is none of AP, APr, APc,
        APf; else the bounds of the mean difference over the seeds that both have, in percent."""
        seeds = ours.index.intersection(baseline.index)
        if column.subscript not in GROUPS or seeds.empty:
            return float("nan"), float("nan")
        place = list(GROUPS).index(column.subscript)
        differences = []
        for seed in seeds:
            pair = [self._of_run(run[seed], IOU_TYPES[column.superscript]) for run in (ours, baseline)]
            if pair[0] is None or pair[1] is None:
                return float("nan"), float("nan")
            differences.append(pair[0][:, place] - pair[1][:, place])
        tail = (1 - self.intervals.level) / 2
        low, high = np.nanquantile(100 * np.mean(differences, axis=0), [tail, 1 - tail])
        return float(low), float(high)

    def _of_run(self, run: str, iou_type: str) -> np.ndarray | None:
        key = (run, iou_type)
        if key not in self._resampled:
            matches = read_matches(self.runs / run, iou_type)
            weights = None if matches is None else image_weights(matches.images, self.intervals.resamples)
            self._resampled[key] = None if matches is None or weights is None else resampled_ap(matches, weights)
        return self._resampled[key]


def image_weights(images: int, resamples: int) -> np.ndarray:
    """(resamples, images) int64: how often each image appears; the same for every run over as many images."""
    return np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_ap(matches: RankedMatches, weights: np.ndarray) -> np.ndarray:
    """AP, APr, APc, APf as fractions for each row of weights (S, images): (S, 4) float64, NaN where undefined.

    Weights of one give the evaluation's own figures.
    """
    ap = np.full((len(weights), len(matches.frequency)), np.nan)
    for category in np.flatnonzero(matches.frequency != ""):
        instances = weights @ matches.instances[category]
        rows = slice(matches.starts[category], matches.starts[category + 1])
        times = weights[:, matches.image[rows]]
        ap[:, category] = _average_precision(matches.hit[:, rows], matches.counted[:, rows], times, instances)
    columns = [ap[:, np.isin(matches.frequency, list(letters))] for letters in GROUPS.values()]
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
