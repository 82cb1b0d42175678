"""How much each validation image moves AP: what intervals say about other validation images.

A bootstrap over images asks how AP varies when each image counts 0, 1, 2, ... times. Its variance over infinitely many
resamples is, to first order, the sum of squares of AP's derivatives by the images' weights (the infinitesimal
jackknife: Efron 1982, The jackknife, the bootstrap and other resampling plans). One pass over the matches gives them:
no detection is matched again and no draw is made; a test compares them with a thousand exact resamples. Derivatives of
two runs subtract image by image, so that what makes an image hard for both cancels out.

Where few images hold a category, resampling understates how its AP varies: a mean of m images by (m - 1) / m, and a
category in a single image hardly varies at all. So derivatives are stretched by sqrt(m / (m - 1)), and a category in a
single image counts with what its removal does to the mean (the jackknife). Removal takes what sets categories apart for
chance, too. So it is scaled down to the variance of one image in the categories that two or three images hold, if
there are `ENOUGH` of these and it is less. Surveys treat strata with a single unit likewise (`lonely.psu = "average"`
of Lumley's R package survey).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.record.matches import THRESHOLDS, RankedMatches, read_matches
from reports.spec import IOU_TYPES, Column
from reports.statistics import ImagePart, image_part

# A column's subscript: the categories that it is the mean of, and the IoU thresholds.
FIGURES = {
    "": ("rcf", slice(0, THRESHOLDS)),
    "r": ("r", slice(0, THRESHOLDS)),
    "c": ("c", slice(0, THRESHOLDS)),
    "f": ("f", slice(0, THRESHOLDS)),
    "50": ("rcf", slice(0, 1)),
    "75": ("rcf", slice(5, 6)),
}
ENOUGH = 10  # categories in two or three images, to say how much one image varies


@dataclass
class ImageParts:
    """The images' part in the variance of paired differences; caches runs, since rows share their baselines.

    read: `read_matches`, or one that passes over damaged files.
    """

    runs: Path
    read: Callable[[Path, str], RankedMatches | None] = read_matches
    _of_runs: dict[tuple[str, str], np.ndarray | None] = field(default_factory=dict)

    def of(self, ours: Sequence[str], baseline: Sequence[str], column: Column) -> ImagePart | None:
        """ours, baseline: run_ids of the same seeds. Of the mean difference, in percent; None without a seed, where a
        run has left no matches, or the column is none of `FIGURES`."""
        if column.subscript not in FIGURES or not len(ours):
            return None
        moved = []
        for runs in zip(ours, baseline, strict=True):
            pair = [self.derivatives(run, column) for run in runs]
            if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
                return None
            moved.append(pair[0] - pair[1])
        if len({len(each) for each in moved}) > 1:
            return None
        return image_part(np.array(moved))

    def derivatives(self, run: str, column: Column) -> np.ndarray | None:
        """(images,) of a run's figure, in percent, by the images' weights; None if they are not known."""
        if column.subscript not in FIGURES:
            return None
        known = self._of_run(run, IOU_TYPES[column.superscript])
        found = None if known is None else 100 * known[list(FIGURES).index(column.subscript)]
        return None if found is None or np.isnan(found).any() else found

    def _of_run(self, run: str, iou_type: str) -> np.ndarray | None:
        key = (run, iou_type)
        if key not in self._of_runs:
            matches = self.read(self.runs / run, iou_type)
            self._of_runs[key] = None if matches is None else image_influence(matches)[1]
        return self._of_runs[key]


def image_influence(matches: RankedMatches) -> tuple[np.ndarray, np.ndarray]:
    """(6,) and (6, images) float64, by `FIGURES`, as fractions, NaN where undefined: AP with precision taken at every
    hit rather than at 101 recalls, and its derivatives: with weights w it is, to first order, AP + (w - 1) @
    derivatives."""
    categories = len(matches.frequency)
    instances = np.bincount(matches.truth_category, matches.instances, categories)
    holding = np.bincount(matches.truth_category, minlength=categories)
    category = np.repeat(np.arange(categories), np.diff(matches.starts))
    steps = [_derivatives(*flags, matches.starts, category) for flags in zip(matches.hit, matches.counted, strict=True)]
    figures, moved = np.full(len(FIGURES), np.nan), np.full((len(FIGURES), matches.images), np.nan)
    for place, (letters, thresholds) in enumerate(FIGURES.values()):
        chosen = np.isin(matches.frequency, list(letters)) & (holding > 0)
        if chosen.any():
            per_instance = chosen / np.maximum(instances, 1)
            ap = np.mean([total for total, _ in steps[thresholds]], axis=0) * per_instance
            of_detection = np.mean([each for _, each in steps[thresholds]], axis=0) * per_instance[category]
            of_instance = -ap * per_instance
            figures[place] = ap[chosen].mean()
            moved[place] = _of_images(matches, category, of_detection, of_instance, holding) / chosen.sum()
            alone = (holding == 1) & chosen
            rows = alone[matches.truth_category]
            left_out = (ap[matches.truth_category[rows]] - figures[place]) / max(chosen.sum() - 1, 1)
            few = chosen & np.isin(holding, (2, 3))
            if left_out.any() and few.sum() >= ENOUGH:
                one = _variance_of_one(matches, category, few, of_detection, of_instance, holding) / chosen.sum() ** 2
                left_out *= min(1, one / np.mean(left_out**2)) ** 0.5
            moved[place] += np.bincount(matches.truth_image[rows], left_out, matches.images)
    return figures, moved


def _of_images(
    matches: RankedMatches, category: np.ndarray, of_detection: np.ndarray, of_instance: np.ndarray, holding: np.ndarray
) -> np.ndarray:
    """(images,) the sum over categories of AP's derivatives, stretched where few images hold a category."""
    stretch = np.sqrt(holding / np.maximum(holding - 1, 1))
    of_truth = (of_instance * stretch)[matches.truth_category] * matches.instances
    found = np.bincount(matches.image, of_detection * stretch[category], matches.images)
    return found + np.bincount(matches.truth_image, of_truth, matches.images)


def _variance_of_one(
    matches: RankedMatches,
    category: np.ndarray,
    few: np.ndarray,
    of_detection: np.ndarray,
    of_instance: np.ndarray,
    holding: np.ndarray,
) -> float:
    """Of a category's AP by the one image that holds it, from the categories `few` (C,): each is held by m images, and
    one image's variance is m times that of all m."""
    rows = np.concatenate([category, matches.truth_category])
    image = np.concatenate([matches.image, matches.truth_image])
    moved = np.concatenate([of_detection, of_instance[matches.truth_category] * matches.instances])
    rows, image, moved = (values[few[rows]] for values in (rows, image, moved))
    m = holding[few]
    cells = np.bincount((np.cumsum(few) - 1)[rows] * matches.images + image, moved, len(m) * matches.images)
    return float(np.mean((cells.reshape(len(m), -1) ** 2).sum(axis=1) * m**2 / (m - 1)))


def _derivatives(
    hit: np.ndarray, counted: np.ndarray, starts: np.ndarray, category: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """At one IoU threshold: (C,) the sum of interpolated precision over the hits, and (D,) its derivative by each
    detection's weight."""
    ranked, true = (_within(np.cumsum(flags), starts, category) for flags in (counted, hit))
    rows = np.flatnonzero(hit)
    total, moved = np.zeros(len(starts) - 1), np.zeros(len(hit))
    if not len(rows):
        return total, moved
    group = category[rows]
    precision = true[rows] / ranked[rows]
    # The best precision from each hit on, category by category: an offset keeps later categories below.
    raised = (precision - 2.0 * group)[::-1]
    best = np.maximum.accumulate(raised)
    at = len(rows) - 1 - np.maximum.accumulate(np.where(raised == best, np.arange(len(rows)), 0))[::-1]
    answers = np.bincount(at, minlength=len(rows)) / ranked[rows]  # hits that take their precision from this one
    np.add.at(total, group, precision[at])
    gain, loss = np.zeros((2, len(hit)))
    gain[rows], loss[rows] = answers * (1 - precision), answers * precision
    gain, loss = (_from_here(values, starts, category) for values in (gain, loss))
    moved = np.where(counted, -loss, 0.0)
    moved[rows] = precision[at] + gain[rows]
    return total, moved


def _within(running: np.ndarray, starts: np.ndarray, category: np.ndarray) -> np.ndarray:
    """A running sum over all detections, begun anew in each category."""
    own: np.ndarray = running - np.concatenate([[0], running])[starts[:-1]][category]
    return own


def _from_here(values: np.ndarray, starts: np.ndarray, category: np.ndarray) -> np.ndarray:
    """The sum of each detection's value and of those that follow it in its category."""
    running = np.concatenate([[0.0], np.cumsum(values)])
    behind: np.ndarray = running[starts[1:]][category] - running[:-1]
    return behind
