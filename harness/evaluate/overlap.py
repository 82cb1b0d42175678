"""Intersection over union of detections and ground truth that share an image and a category.

Both sides carry ascending keys, one an (image, category); only overlaps of at least `minimum` are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.data.lvis.annotations import Annotations, segmentation_rle
from harness.evaluate.detections import Masks

BLOCK = 1_000_000  # candidate pairs of boxes at a time, which bounds the memory


@dataclass(frozen=True, eq=False)
class Overlaps:
    """E overlaps (detection row, ground-truth row, IoU), ordered by detection row, then by ground-truth row."""

    detection: np.ndarray  # (E,) int64
    truth: np.ndarray  # (E,) int64
    iou: np.ndarray  # (E,) float64

    @classmethod
    def concatenate(cls, parts: list[Overlaps]) -> Overlaps:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("detection", "truth", "iou")))


def box_overlaps(
    boxes: np.ndarray, keys: np.ndarray, truth_boxes: np.ndarray, truth_keys: np.ndarray, minimum: float
) -> Overlaps:
    """IoU of boxes (n, 4) x, y, width, height, in pycocotools' order of operations and so equal to it to the bit."""
    first = np.searchsorted(truth_keys, keys, side="left")
    count = np.searchsorted(truth_keys, keys, side="right") - first
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.unique(np.concatenate([[0], np.searchsorted(ends, np.arange(BLOCK, total, BLOCK)), [len(keys)]]))
    parts = [Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for a, b in pairwise(cuts.tolist()):
        detection = np.repeat(np.arange(a, b), count[a:b])
        within = np.arange(len(detection)) - np.repeat(ends[a:b] - count[a:b] - (ends[a] - count[a]), count[a:b])
        truth = np.repeat(first[a:b], count[a:b]) + within
        iou = _box_iou(boxes[detection], truth_boxes[truth])
        keep = iou >= minimum
        parts.append(Overlaps(detection[keep], truth[keep], iou[keep]))
    return Overlaps.concatenate(parts)


def _box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    x, y, w, h = boxes.T
    other_x, other_y, other_w, other_h = others.T
    width = np.minimum(w + x, other_w + other_x) - np.maximum(x, other_x)
    height = np.minimum(h + y, other_h + other_y) - np.maximum(y, other_y)
    intersection = width * height
    union = w * h + other_w * other_h - intersection
    ratio: np.ndarray = np.divide(intersection, union, out=np.zeros(len(union)), where=(width > 0) & (height > 0))
    return ratio


def mask_overlaps(
    masks: Masks,
    rows: np.ndarray,
    keys: np.ndarray,
    annotations: Annotations,
    truth_rows: np.ndarray,
    truth_keys: np.ndarray,
    minimum: float,
) -> Overlaps:
    """IoU of masks by pycocotools. `rows` of `masks` carry `keys`; `truth_rows` of the annotations `truth_keys`."""
    from pycocotools import mask as mask_utils

    shared = np.intersect1d(keys, truth_keys)
    starts, ends = (np.searchsorted(keys, shared, side).tolist() for side in ("left", "right"))
    truth_starts, truth_ends = (np.searchsorted(truth_keys, shared, side).tolist() for side in ("left", "right"))
    parts = [Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for a, b, c, d in zip(starts, ends, truth_starts, truth_ends, strict=True):
        truths = [segmentation_rle(annotations, row) for row in truth_rows[c:d].tolist()]
        iou = mask_utils.iou(masks.rles(rows[a:b]), truths, [0] * (d - c))
        detection, truth = np.nonzero(iou >= minimum)
        parts.append(Overlaps(detection + a, truth + c, iou[detection, truth]))
    return Overlaps.concatenate(parts)
