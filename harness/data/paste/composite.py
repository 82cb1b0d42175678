"""Laying an instance over an image inside its own window, and what that hides of the instances below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from harness.config import Blending
from harness.data.targets import Instance, tightened

BLUR = 5  # side in pixels of the box that `gaussian` blending blurs the mask with
BOX_TOLERANCE = 10  # pixels by which a box may move before the hidden instance must show enough
MIN_VISIBLE = 300  # pixels that are enough


def lay(
    image: np.ndarray, rgba: np.ndarray, corner: tuple[int, int], blending: Blending, threshold: int = 0
) -> tuple[np.ndarray, int, int] | None:
    """Draws a cut-out over `image` (H, W, 3) uint8 RGB in place, its corner at x, y, cut at the border.

    Returns the mask (h, w) uint8 0/1 of what shows, alpha above `threshold`, and its corner x, y; None when nothing
    shows, and then nothing is drawn. Only pixels of that mask change, with `gaussian` blending also those within two
    pixels of it.
    """
    (height, width), (h, w), (x, y) = image.shape[:2], rgba.shape[:2], corner
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x1 <= x0 or y1 <= y0:
        return None
    inside = np.ascontiguousarray(rgba[y0 - y : y1 - y, x0 - x : x1 - x])
    alpha = cv2.extractChannel(inside, 3)
    mask = cv2.threshold(alpha, threshold, 1, cv2.THRESH_BINARY)[1]
    if cv2.countNonZero(mask) == 0:
        return None
    if blending is Blending.gaussian:
        _blend_blurred(image, inside, mask, (x0, y0))
    else:
        rgb = inside[..., :3]
        target = image[y0:y1, x0:x1]
        if blending is Blending.alpha:
            rgb = _mixed(target, rgb, alpha * mask * np.float32(1 / 255))
        np.copyto(target, rgb, where=mask.view(bool)[..., None])
    return mask, x0, y0


def hide(instances: Sequence[Instance], mask: np.ndarray, x: int, y: int) -> list[Instance]:
    """What `instances` show once `mask` (h, w) uint8 0/1 lies over them at x, y.

    Afterwards each has its mask's box. An instance stays if a pixel of it remains and either its box moved by at most
    10 pixels on every side or more than 300 pixels remain. So one whose annotated box reached far beyond its mask may
    go although nothing covers it. Source: X-Paste (2212.03863).
    """
    shown = []
    for instance in instances:
        rest = _without(instance, mask, x, y)
        if rest is instance or (rest is not None and _stays(instance, rest)):
            shown.append(rest)
    return shown


def _without(instance: Instance, mask: np.ndarray, x: int, y: int) -> Instance | None:
    """What `mask` at x, y leaves of an instance, the same object where that is all; None if it is nothing."""
    h, w = mask.shape
    left, top, right, bottom = instance.extent
    x0, y0, x1, y1 = max(left, x), max(top, y), min(right, x + w), min(bottom, y + h)
    window = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    over = mask[y0 - y : y1 - y, x0 - x : x1 - x] if x1 > x0 and y1 > y0 else None
    if over is None or not (instance.mask[window] & over).any():
        return instance if instance.annotated is None else replace(instance, annotated=None)
    rest = instance.mask.copy()
    rest[window] &= 1 - over
    return tightened(replace(instance, mask=rest, annotated=None))


def _stays(before: Instance, remaining: Instance) -> bool:
    moved = max(abs(a - b) for a, b in zip(before.box, remaining.box, strict=True))
    return moved <= BOX_TOLERANCE or cv2.countNonZero(remaining.mask) > MIN_VISIBLE


def _mixed(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
    difference = above.astype(np.float32) - below
    mixed: np.ndarray = (below + share[..., None] * difference + np.float32(0.5)).astype(np.uint8)
    return mixed


def _blend_blurred(image: np.ndarray, rgba: np.ndarray, mask: np.ndarray, corner: tuple[int, int]) -> None:
    """The blurred mask reaches beyond the window, where the instance's border pixels go on."""
    reach = BLUR // 2
    (height, width), (h, w), (x, y) = image.shape[:2], mask.shape, corner
    margins = (reach, reach, reach, reach)
    padded = cv2.copyMakeBorder(mask, *margins, cv2.BORDER_CONSTANT, value=0).astype(np.float32)
    share = cv2.blur(padded, (BLUR, BLUR), borderType=cv2.BORDER_CONSTANT)
    rgb = cv2.copyMakeBorder(rgba[..., :3], *margins, cv2.BORDER_REPLICATE)
    x0, y0, x1, y1 = max(x - reach, 0), max(y - reach, 0), min(x + w + reach, width), min(y + h + reach, height)
    part = slice(y0 - y + reach, y1 - y + reach), slice(x0 - x + reach, x1 - x + reach)
    target = image[y0:y1, x0:x1]
    target[:] = _mixed(target, rgb[part], share[part])
