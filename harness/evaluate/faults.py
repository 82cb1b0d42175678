"""What is wrong with each false positive at an IoU of 0.5, by TIDE's rules (Bolya et al. 2020, 2008.08115).

The first that applies: *localisation*, it overlaps its own class with an IoU of 0.1 to 0.5; *class*, it overlaps
another class with 0.5 or more; *duplicate*, it overlaps an instance of its own class that is already found;
*background*, it overlaps nothing with more than 0.1; else *both*, it overlaps another class, and too little. Ignored
ground truth does not count, and ignored detections have no fault: in LVIS these are of categories that are not
exhaustively annotated in the image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.evaluate.overlap import Overlaps
from harness.record.matches import FAULTS

FOREGROUND, BACKGROUND = 0.5, 0.1  # of IoU
NO_TRUTH = -1
_ROUNDING = 1e-9


def find_faults(
    matched: np.ndarray,
    wrong: np.ndarray,
    own: Overlaps,
    among: Overlaps,
    with_others: Callable[[np.ndarray], Overlaps],
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) uint8 index into `FAULTS`, and (D,) int32 row of the ground truth that a detection found or, with another
    class or a better place, would have found; NO_TRUTH without.

    matched (D,): row of the ground truth that it found, NO_TRUTH without. wrong (D,) bool: false positives. own:
    overlaps of at least BACKGROUND with ground truth of its class. among: those of ground truth with ground truth of
    other classes. with_others gives overlaps of at least BACKGROUND of some detections, by their ascending rows, with
    ground truth of other classes in their images.
    """
    iou, truth = _best(own, len(matched))
    near = wrong & (iou >= BACKGROUND) & (iou <= FOREGROUND)
    asked = np.flatnonzero(wrong & ~near & _may_be_confused(iou, truth, among))
    other_iou, other_truth = _best(with_others(asked), len(matched))
    names = ("localisation", "class", "duplicate", "background")
    conditions = (near, other_iou >= FOREGROUND, iou >= FOREGROUND, np.maximum(iou, other_iou) <= BACKGROUND)
    found = np.select(conditions, [FAULTS.index(name) for name in names], FAULTS.index("both"))
    fixed_by = np.select(conditions[:2], [truth, other_truth], NO_TRUTH)
    return np.where(wrong, found, 0).astype(np.uint8), np.where(wrong, fixed_by, matched).astype(np.int32)


def _may_be_confused(iou: np.ndarray, truth: np.ndarray, among: Overlaps) -> np.ndarray:
    """(D,) bool: all but those on ground truth of their class that no other class's is close enough to.

    1 - IoU is a distance, so who overlaps two ground truths by a and 0.5 has them overlap by a - 0.5.
    """
    closest = np.zeros(max(among.detection.max(initial=-1), truth.max(initial=-1)) + 2)  # the last for NO_TRUTH
    np.maximum.at(closest, among.detection, among.iou)
    may: np.ndarray = (iou < FOREGROUND) | (closest[truth] > iou - FOREGROUND - _ROUNDING) & (closest[truth] > 0)
    return may


def _best(overlaps: Overlaps, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) each: the greatest IoU and the first ground truth that has it; 0 and NO_TRUTH without."""
    iou, truth = np.zeros(detections), np.full(detections, NO_TRUTH)
    if len(overlaps.detection):
        starts = np.flatnonzero(np.diff(overlaps.detection, prepend=-1))
        rows, most = overlaps.detection[starts], np.maximum.reduceat(overlaps.iou, starts)
        iou[rows] = most
        best = np.flatnonzero(overlaps.iou == iou[overlaps.detection])[::-1]  # the first is written last
        truth[overlaps.detection[best]] = overlaps.truth[best]
    return iou, truth
