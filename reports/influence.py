"""How much each validation image moves AP: what intervals over images are made from.

The bootstrap over images asks how AP varies when each image counts 0, 1, 2, ... times. Its variance over infinitely many
resamples is, to first order, the sum of squares of AP's derivatives by the images' weights (the infinitesimal jackknife:
Efron 1982, The jackknife, the bootstrap and other resampling plans). One pass over the matches gives these derivatives,
so that no AP is computed again.

Where few images hold a category, resampling understates how its AP varies: the mean of m images by (m - 1) / m, and a
category in a single image hardly varies at all. So derivatives are stretched by sqrt(m / (m - 1)), and a category in a
single image counts with what its removal does to the mean (the jackknife).
"""

from __future__ import annotations

import numpy as np

from reports.images import GROUPS, Matches


def image_influence(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """(4,) and (4, images) float64, for AP, APr, APc, APf as fractions, NaN where undefined: AP with precision taken at
    every hit rather than at 101 recalls, and its derivatives: with weights w it is, to first order, AP + (w - 1) @ them.
    """
    categories = len(matches.frequency)
    instances = matches.instances.sum(axis=1)
    holding = (matches.instances > 0).sum(axis=1)
    stretch = np.sqrt(holding / np.maximum(holding - 1, 1))
    category = np.repeat(np.arange(categories), np.diff(matches.starts))
    ap, of_detection = np.zeros(categories), np.zeros(len(category))
    for hit, counted in zip(matches.hit, matches.counted, strict=True):
        total, moved = _derivatives(hit, counted, matches.starts, category)
        ap += total
        of_detection += moved
    scale = 1 / (len(matches.hit) * np.maximum(instances, 1))
    ap *= scale
    of_detection *= (scale * stretch)[category]
    of_truth = stretch * ap / np.maximum(instances, 1)

    figures, result = np.full(len(GROUPS), np.nan), np.full((len(GROUPS), matches.images), np.nan)
    for place, letters in enumerate(GROUPS.values()):
        chosen = np.isin(matches.frequency, list(letters)) & (holding > 0)
        if chosen.any():
            rows = chosen[category]
            moved = np.bincount(matches.image[rows], of_detection[rows], matches.images)
            moved -= of_truth[chosen] @ matches.instances[chosen]
            figures[place] = ap[chosen].mean()
            result[place] = moved / chosen.sum()
            single = np.flatnonzero(chosen & (holding == 1))
            alone = matches.instances[single].argmax(axis=1)
            np.add.at(result[place], alone, (ap[single] - figures[place]) / max(chosen.sum() - 1, 1))
    return figures, result


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
    return running - np.concatenate([[0], running])[starts[:-1]][category]


def _from_here(values: np.ndarray, starts: np.ndarray, category: np.ndarray) -> np.ndarray:
    """The sum of each detection's value and of those that follow it in its category."""
    running = np.concatenate([[0.0], np.cumsum(values)])
    return running[starts[1:]][category] - running[:-1]
