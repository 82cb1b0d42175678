"""The instances of a view under construction, each with a tight mask, and their conversion to training targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import torch
from pycocotools import mask as mask_utils

from harness.data.augment import Jitter
from harness.data.lvis.annotations import Annotations, rasterise
from harness.data.sample import Masks, Outlines, Targets
from harness.errors import UserError

Box = tuple[float, float, float, float]
SMALLEST_BOX = 1e-5  # pixels; like detectron2, we drop an annotation whose visible box has a smaller side


@dataclass(frozen=True)
class Instance:
    """An instance in a view. mask (h, w) uint8 0/1, every border of which has a 1; its corner x, y in the view.

    pool_row is -1 for an instance of the image itself. annotated: the annotation's box x0, y0, x1, y1 in the view, of
    an instance that no paste has touched; it may reach beyond the mask.
    """

    mask: np.ndarray
    x: int
    y: int
    label: int
    pool_row: int = -1
    annotated: Box | None = None

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the pixels that are set."""
        h, w = self.mask.shape
        return self.x, self.y, self.x + w, self.y + h

    @property
    def box(self) -> Box:
        """The annotation's box while it is valid, else the mask's extent."""
        return self.annotated or self.extent


def tightened(instance: Instance) -> Instance | None:
    """The instance with its mask cut to the pixels that are set; None when there are none."""
    x, y, w, h = cv2.boundingRect(instance.mask)
    if w == 0 or h == 0:
        return None
    if (h, w) == instance.mask.shape:
        return instance
    return replace(instance, mask=instance.mask[y : y + h, x : x + w], x=instance.x + x, y=instance.y + y)


def visible_instances(annotations: Annotations, image: int, jitter: Jitter) -> list[Instance]:
    """The annotated instances of which the view shows a pixel."""
    found = (visible_instance(annotations, index, jitter) for index in _trained_on(annotations, image))
    return [instance for instance in found if instance is not None]


def visible_instance(annotations: Annotations, index: int, jitter: Jitter) -> Instance | None:
    """Annotation `index` in a view, rasterised inside its window as COCO does it; None when no pixel shows."""
    box = jitter.box(annotations.boxes[index])
    if not _has_area(box):
        return None
    instance = _rasterised(annotations, index, jitter)
    return None if instance is None else replace(instance, annotated=box)


def outlined_targets(annotations: Annotations, image: int, jitter: Jitter) -> Targets:
    """Targets with the annotations' boxes and polygons. An instance stays if its box shows, even if no pixel does.

    Raises UserError for an annotation that is not polygons.
    """
    found = []
    for index in _trained_on(annotations, image):
        box = jitter.box(annotations.boxes[index])
        if _has_area(box):
            found.append(
                (box, int(annotations.annotation_categories[index]), _moved_outline(annotations, index, jitter))
            )
    count = len(found)
    return Targets(
        boxes=torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(count, 4),
        labels=torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        masks=Outlines.of([outline for _, _, outline in found], jitter.size),
        pasted=torch.zeros(count, dtype=torch.bool),
        pool_row=torch.full((count,), -1, dtype=torch.int64),
    )


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


def _trained_on(annotations: Annotations, image: int) -> Iterator[int]:
    span = annotations.annotations_of(image)
    return (index for index in range(span.start, span.stop) if not annotations.ignore[index])


def _has_area(box: Box) -> bool:
    return box[2] - box[0] > SMALLEST_BOX and box[3] - box[1] > SMALLEST_BOX


def _moved_outline(annotations: Annotations, index: int, jitter: Jitter) -> list[np.ndarray]:
    """The polygons of an annotation in a view, x, y, x, y ... each; beyond the view too."""
    first, last = annotations.polygon_offsets[index : index + 2]
    if first == last:
        known = annotations.annotation_ids[index]
        raise UserError(f"annotation {known} is not a polygon, which data.mask_targets=polygon needs; use bitmask")
    bounds = annotations.point_offsets[first : last + 1].tolist()
    return [jitter.points(annotations.coordinates[a:b]) for a, b in pairwise(bounds)]


def _rasterised(annotations: Annotations, index: int, jitter: Jitter) -> Instance | None:
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
