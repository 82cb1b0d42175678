"""The instances of one view while it is made: a tight mask each, and what becomes of them as a training target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import torch
from pycocotools import mask as mask_utils

from harness.data.augment import Jitter
from harness.data.lvis.annotations import Annotations, rasterise
from harness.data.sample import Masks, Targets


@dataclass(frozen=True)
class Instance:
    """An instance in a view. mask (h, w) uint8 0/1, every border of which has a 1; its corner x, y in the view.

    pool_row is -1 for an instance of the image itself.
    """

    mask: np.ndarray
    x: int
    y: int
    label: int
    pool_row: int = -1

    @property
    def box(self) -> tuple[int, int, int, int]:
        h, w = self.mask.shape
        return self.x, self.y, self.x + w, self.y + h


def tightened(instance: Instance) -> Instance | None:
    """The instance with its mask cut to the pixels that are set; None when there are none."""
    x, y, w, h = cv2.boundingRect(instance.mask)
    if w == 0 or h == 0:
        return None
    if (h, w) == instance.mask.shape:
        return instance
    return replace(instance, mask=instance.mask[y : y + h, x : x + w], x=instance.x + x, y=instance.y + y)


def visible_instances(annotations: Annotations, image: int, jitter: Jitter) -> list[Instance]:
    """The annotated instances of which the view shows a pixel, rasterised inside their windows as COCO does it."""
    found = []
    span = annotations.annotations_of(image)
    for index in range(span.start, span.stop):
        if annotations.ignore[index]:
            continue
        instance = _visible_instance(annotations, index, jitter)
        if instance is not None:
            found.append(instance)
    return found


def to_targets(instances: Sequence[Instance], size: tuple[int, int]) -> Targets:
    """Targets of a view of `size` (height, width), in the order given."""
    count = len(instances)
    if count == 0:
        masks = Masks.empty(*size)
    else:
        shapes = [instance.mask.shape for instance in instances]
        crops = np.zeros((count, max(h for h, _ in shapes), max(w for _, w in shapes)), np.uint8)
        for crop, instance in zip(crops, instances, strict=True):
            h, w = instance.mask.shape
            crop[:h, :w] = instance.mask
        origin = np.array([(instance.x, instance.y) for instance in instances], np.int32)
        masks = Masks(torch.from_numpy(crops), torch.from_numpy(origin), size)
    rows = np.array([instance.pool_row for instance in instances], np.int64)
    return Targets(
        boxes=torch.from_numpy(np.array([i.box for i in instances], np.float32).reshape(-1, 4)),
        labels=torch.from_numpy(np.array([i.label for i in instances], np.int64)),
        masks=masks,
        pasted=torch.from_numpy(rows >= 0),
        pool_row=torch.from_numpy(rows),
    )


def _visible_instance(annotations: Annotations, index: int, jitter: Jitter) -> Instance | None:
    label = int(annotations.annotation_categories[index])
    first, last = annotations.polygon_offsets[index : index + 2]
    if first == last:
        mask = jitter.image(rasterise(annotations, index).astype(np.uint8) * 255)
        return tightened(Instance((mask > 127).astype(np.uint8), 0, 0, label))
    bounds = annotations.point_offsets[first : last + 1].tolist()
    points = jitter.points(annotations.coordinates[bounds[0] : bounds[-1]])
    height, width = jitter.size
    x0, y0 = max(0, int(np.floor(points[0::2].min()))), max(0, int(np.floor(points[1::2].min())))
    x1, y1 = min(width, int(np.ceil(points[0::2].max())) + 1), min(height, int(np.ceil(points[1::2].max())) + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    points[0::2] -= x0
    points[1::2] -= y0
    polygons = [points[a - bounds[0] : b - bounds[0]] for a, b in pairwise(bounds)]
    rles = mask_utils.frPyObjects(polygons, y1 - y0, x1 - x0)
    mask = np.ascontiguousarray(mask_utils.decode(mask_utils.merge(rles)))
    return tightened(Instance(mask, x0, y0, label))
