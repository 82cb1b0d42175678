"""What a run's AP would gain if one kind of fault were gone (TIDE: Bolya et al. 2020, 2008.08115), and how far its
scores can be taken as probabilities (expected calibration error: Guo et al. 2017, 1706.04599).

Both are of AP at an IoU of 0.5. Faults are fixed one kind at a time, as TIDE does: of the detections with a wrong class
or place that concern one instance which nobody found, the surest becomes right and the others go; other false positives
go; missed instances, which no such detection concerns, are asked for no longer. A gain below zero counts as zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.record.matches import FAULTS, HalfMatches
from harness.record.precision import average_precision

MISSED = "missed"
KINDS = (*FAULTS[1:], MISSED)
CALIBRATION = "calibration"  # what the expected calibration error is called beside them
BINS = 10  # of scores, equally wide


def fault_gains(matches: HalfMatches) -> dict[str, float] | None:
    """Points of AP50 gained, in percent, by `KINDS`; None if the run recorded no faults."""
    fault, truth = matches.fault, matches.truth
    if fault is None or truth is None or not len(matches.instance_category):
        return None
    instances = np.bincount(matches.instance_category, minlength=len(matches.frequency))
    asked = instances > 0
    every = _Fixed(matches.category, matches.hit, matches.counted, instances)
    before = every.ap50(matches.score, asked)
    best = _surest(matches, fault, truth)
    gains = {}
    for kind in KINDS:
        if kind == MISSED:
            concerned = np.unique(truth[truth >= 0])
            kept = np.bincount(matches.instance_category[concerned], minlength=len(instances))
            fixed = _Fixed(every.category, every.hit, every.counted, kept)
        else:
            rows = fault == FAULTS.index(kind)
            mended = rows & best
            category = np.where(mended, matches.instance_category[truth], matches.category)
            fixed = _Fixed(category, matches.hit | mended, matches.counted & (~rows | mended), instances)
        gains[kind] = max(100 * (fixed.ap50(matches.score, asked) - before), 0.0)
    return gains


@dataclass(frozen=True, eq=False)
class _Fixed:
    """Detections and numbers of instances with one kind of fault gone."""

    category: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    instances: np.ndarray

    def ap50(self, score: np.ndarray, asked: np.ndarray) -> float:
        """The mean over the categories `asked`; one of which nothing is left to find is 0 where it has detections, and
        left out without."""
        category, hit, counted = self.category, self.hit, self.counted
        if (np.diff(category) < 0).any():  # another class moves a detection among others
            order = np.lexsort((-score, category))
            category, hit, counted = category[order], hit[order], counted[order]
        starts = np.searchsorted(category, np.arange(len(asked) + 1))
        ap, _ = average_precision(hit, counted, starts, self.instances)
        detections = np.bincount(self.category[self.counted], minlength=len(asked))
        return float(np.nan_to_num(ap)[asked & ((self.instances > 0) | (detections > 0))].mean())


def _surest(matches: HalfMatches, fault: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(D,) bool: of the detections that an instance which nobody found would make right, the one of highest score."""
    found = np.zeros(len(matches.instance_category) + 1, bool)
    found[truth[matches.hit]] = True
    rows = np.flatnonzero((fault > 0) & (truth >= 0) & ~found[truth])
    order = rows[np.lexsort((rows, -matches.score[rows], truth[rows]))]
    surest = np.zeros(len(truth), bool)
    surest[order[np.diff(truth[order], prepend=-1) != 0]] = True
    return surest


@dataclass(frozen=True, eq=False)
class Calibration:
    """By bin of scores: how many detections count, (BINS,) int64, their mean score and the share of hits, NaN without.

    error: the expected calibration error, the mean distance of the two over detections, in 0..1.
    """

    count: np.ndarray
    score: np.ndarray
    hits: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, in 0..1; NaN without detections."""
        known = self.count > 0
        apart = np.abs(self.score - self.hits)[known]
        return float(np.average(apart, weights=self.count[known])) if known.any() else float("nan")


def calibration(matches: HalfMatches) -> Calibration:
    """Of detections that are not ignored; a score beyond 0..1 belongs to the bin at that end."""
    score, hit = matches.score[matches.counted], matches.hit[matches.counted]
    which = np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
    count, scores, hits = (np.bincount(which, weights, BINS) for weights in (None, score, hit))
    with np.errstate(invalid="ignore"):
        return Calibration(count, scores / count, hits / count)
