"""The published rules of views and pastes over whole canvases, the slow way: what ours is compared with.

Written from the behaviour of X-Paste and detectron2, not from their code. Each takes its draws from a generator in the
order that ours does: scale, offset x, offset y, mirror; then how many instances, and which.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from harness.data.lvis.annotations import Annotations


@dataclass
class Canvas:
    """A view: image (H, W, 3) uint8, boxes (n, 4), masks (n, H, W) bool, labels (n,), annotations (n,) or -1."""

    image: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    annotations: np.ndarray


def view(
    known: Annotations, index: int, picture: np.ndarray, side: int, scales: tuple, flip: bool, rng: np.random.Generator
) -> Canvas:
    """A training image resized, cropped and mirrored, with the instances that show."""
    height, width = picture.shape[:2]
    drawn = rng.uniform(*scales)
    at_x, at_y, mirror = rng.random(3)
    scale = min(drawn * side / height, drawn * side / width)
    tall, broad = max(1, int(height * scale)), max(1, int(width * scale))
    x, y = int(max(0, broad - side) * at_x), int(max(0, tall - side) * at_y)
    mirrored = flip and mirror < 0.5
    image = np.array(Image.fromarray(picture).resize((broad, tall), Image.Resampling.BILINEAR))
    image = image[y : y + side, x : x + side]
    h, w = image.shape[:2]
    if mirrored:
        image = image[:, ::-1].copy()
    boxes, masks, labels, rows = [], [], [], []
    for row in range(*known.image_offsets[index : index + 2].tolist()):
        left, top, wide, high = known.boxes[row]
        corners = np.array([[left, top], [left + wide, top + high]]) * scale - (x, y)
        if mirrored:
            corners[:, 0] = w - corners[:, 0]
        low, far = np.clip(corners.min(0), 0, (w, h)), np.clip(corners.max(0), 0, (w, h))
        if not (far - low > 1e-5).all():
            continue
        first, last = known.polygon_offsets[row : row + 2]
        polygons = []
        for a, b in pairwise(known.point_offsets[first : last + 1].tolist()):
            points = known.coordinates[a:b].reshape(-1, 2) * scale - (x, y)
            if mirrored:
                points[:, 0] = w - points[:, 0]
            polygons.append(points.ravel())
        mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, h, w))).astype(bool)
        if mask.any():
            boxes.append([*low, *far])
            masks.append(mask)
            labels.append(known.annotation_categories[row])
            rows.append(row)
    count = len(rows)
    return Canvas(
        image,
        np.array(boxes, np.float64).reshape(count, 4),
        np.array(masks, bool).reshape(count, h, w),
        np.array(labels, np.int64),
        np.array(rows, np.int64),
    )


def copy_paste(below: Canvas, above: Canvas, rng: np.random.Generator) -> Canvas:
    """0..min(N, 99) of the source's visible instances over the destination, corner on corner."""
    number = len(above.labels)
    count = int(rng.integers(0, min(number, 99) + 1))
    if count == 0:
        return below
    chosen = rng.choice(number, count, replace=False)
    boxes, labels, rows = above.boxes[chosen], above.labels[chosen], above.annotations[chosen]
    height = max(below.image.shape[0], int(np.ceil(boxes[:, 3].max())))
    width = max(below.image.shape[1], int(np.ceil(boxes[:, 2].max())))
    masks = padded(above.masks[chosen].transpose(1, 2, 0), height, width).transpose(2, 0, 1)
    cover = masks.any(0)
    image = np.where(cover[..., None], padded(above.image, height, width), padded(below.image, height, width))
    kept = hidden(padded(below.masks.transpose(1, 2, 0), height, width).transpose(2, 0, 1), below.boxes, cover)
    return Canvas(
        image,
        np.concatenate([kept[1], boxes]),
        np.concatenate([kept[0], masks]),
        np.concatenate([below.labels[kept[2]], labels]),
        np.concatenate([np.full(len(kept[0]), -1), rows]),
    )


def hidden(masks: np.ndarray, boxes: np.ndarray, cover: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks and boxes under a cover (H, W) bool, and which of them stay: what shows, by the occlusion rule."""
    left = masks & ~cover
    moved = mask_boxes(left)
    stays = (np.abs(moved - boxes) <= 10).all(1) | (left.sum((1, 2)) > 300)
    stays &= left.any((1, 2))  # ours: an instance needs a pixel
    return left[stays], moved[stays], np.flatnonzero(stays)


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """(n, 4) x0, y0, x1, y1 of the pixels that are set, zeros where there is none."""
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        ys, xs = np.nonzero(mask)
        if len(ys):
            box[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return boxes


def polygon_target(polygons: list[np.ndarray], box: np.ndarray, side: int) -> np.ndarray:
    """(side, side) bool: polygons moved and scaled into a box, and drawn."""
    x0, y0, x1, y1 = box
    moved = []
    for polygon in polygons:
        points = polygon.reshape(-1, 2) - (x0, y0)
        moved.append((points * (side / max(x1 - x0, 0.1), side / max(y1 - y0, 0.1))).ravel())
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(moved, side, side))).astype(bool)


def padded(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, ...) cut or filled up with zeros at the right and the bottom."""
    out = np.zeros((height, width, *array.shape[2:]), array.dtype)
    h, w = min(height, array.shape[0]), min(width, array.shape[1])
    out[:h, :w] = array[:h, :w]
    return out
