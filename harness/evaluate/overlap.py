"""Intersection over union of detections and ground truth that share a key: an image and category, or an image.

Both sides carry ascending keys; only overlaps of at least `minimum` are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from harness.data.lvis.annotations import Annotations, Rle, segmentation_rle
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
        """The parts one after another."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("detection", "truth", "iou")))

    def where(self, kept: np.ndarray) -> Overlaps:
        """The overlaps where `kept` (E,) bool is true."""
        return Overlaps(self.detection[kept], self.truth[kept], self.iou[kept])


@dataclass(eq=False)
class Pairs:
    """Detections and ground truth whose overlaps are asked for by more than one key.

    truth_rows (G,): of the annotations. rows (D,): of `masks`; boxes (D, 4) x, y, width, height in their place for the
    IoU of boxes. Outlines of ground truth are drawn once.
    """

    annotations: Annotations
    truth_rows: np.ndarray
    rows: np.ndarray
    boxes: np.ndarray | None
    masks: Masks | None
    _drawn: dict[int, Rle] = field(default_factory=dict)

    def overlaps(self, chosen: np.ndarray, keys: np.ndarray, truth_keys: np.ndarray, minimum: float) -> Overlaps:
        """Of the detections `chosen` (n,), ascending, with their keys (n,), and all ground truth with its keys (G,)."""
        if self.boxes is not None:
            found = box_overlaps(self.boxes[chosen], keys, self._truth_boxes, truth_keys, minimum)
        else:
            rows = self.rows[chosen]
            found = mask_overlaps(lambda a, b: self._rles(rows[a:b]), keys, self._truths, truth_keys, minimum)
        return Overlaps(chosen[found.detection], found.truth, found.iou)

    def among_truth(self, keys: np.ndarray, minimum: float) -> Overlaps:
        """Of all ground truth with ground truth of the same key (G,), itself too."""
        if self.boxes is not None:
            return box_overlaps(self._truth_boxes, keys, self._truth_boxes, keys, minimum)
        return mask_overlaps(self._truths, keys, self._truths, keys, minimum)

    @property
    def _truth_boxes(self) -> np.ndarray:
        boxes: np.ndarray = self.annotations.boxes[self.truth_rows]
        return boxes

    def _rles(self, rows: np.ndarray) -> list[Rle]:
        assert self.masks is not None
        return self.masks.rles(rows)

    def _truths(self, first: int, end: int) -> list[Rle]:
        for place in range(first, end):
            if place not in self._drawn:
                self._drawn[place] = segmentation_rle(self.annotations, int(self.truth_rows[place]))
        return [self._drawn[place] for place in range(first, end)]


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
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes of 1e300 pixels
        intersection = width * height
        union = w * h + other_w * other_h - intersection
        ratio: np.ndarray = np.divide(intersection, union, out=np.zeros(len(union)), where=(width > 0) & (height > 0))
    return ratio


def mask_overlaps(
    masks: Callable[[int, int], list[Rle]],
    keys: np.ndarray,
    truths: Callable[[int, int], list[Rle]],
    truth_keys: np.ndarray,
    minimum: float,
) -> Overlaps:
    """IoU of masks by pycocotools. `masks` and `truths` give the masks from one place to another of those with keys."""
    from pycocotools import mask as mask_utils

    shared = np.intersect1d(keys, truth_keys)
    starts, ends = (np.searchsorted(keys, shared, side).tolist() for side in ("left", "right"))
    truth_starts, truth_ends = (np.searchsorted(truth_keys, shared, side).tolist() for side in ("left", "right"))
    parts = [Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for a, b, c, d in zip(starts, ends, truth_starts, truth_ends, strict=True):
        iou = mask_utils.iou(masks(a, b), truths(c, d), [0] * (d - c))
        detection, truth = np.nonzero(iou >= minimum)
        parts.append(Overlaps(detection + a, truth + c, iou[detection, truth]))
    return Overlaps.concatenate(parts)
