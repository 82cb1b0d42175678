"""Resizing, cropping and flipping images together with their outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Jitter:
    """Large-scale jitter: resize to `scaled`, crop `size` at `offset`, mirror. All sizes (height, width) in pixels.

    Like the published code, `scaled` is the source times `factor`, rounded down to whole pixels, while coordinates are
    multiplied by `factor` itself. An image smaller than the crop stays as it is; the engine pads it.
    Source: simple copy-paste (2012.07177), as X-Paste uses it.
    """

    factor: float
    scaled: tuple[int, int]
    offset: tuple[int, int]  # x, y
    size: tuple[int, int]
    flip: bool

    def image(self, image: np.ndarray) -> np.ndarray:
        """The view of an (H, W) or (H, W, channels) uint8 image."""
        (height, width), (x, y) = self.size, self.offset
        view = resize(image, self.scaled)[y : y + height, x : x + width]
        return cv2.flip(view, 1) if self.flip else view

    def points(self, coordinates: np.ndarray) -> np.ndarray:
        """Where points x, y, x, y ... of the source lie in the view, in the same layout."""
        moved = coordinates * self.factor
        moved[0::2] -= self.offset[0]
        moved[1::2] -= self.offset[1]
        if self.flip:
            moved[0::2] = self.size[1] - moved[0::2]
        return moved

    def box(self, box: np.ndarray) -> tuple[float, float, float, float]:
        """Where a box x, y, width, height of the source lies in the view: x0, y0, x1, y1, clipped to the view."""
        x, y, w, h = box
        moved = self.points(np.array([x, y, x + w, y + h]))
        height, width = self.size
        x0, x1 = sorted(min(max(float(value), 0.0), float(width)) for value in moved[0::2])
        y0, y1 = sorted(min(max(float(value), 0.0), float(height)) for value in moved[1::2])
        return x0, y0, x1, y1


def draw_jitter(
    source: tuple[int, int],
    target: tuple[int, int],
    scale_range: tuple[float, float],
    flip: bool,
    rng: np.random.Generator,
) -> Jitter:
    """A jitter by which an image of size `source` fills `target` times a factor uniform in `scale_range`.

    Always takes the same number of draws from `rng`.
    """
    drawn = rng.uniform(*scale_range)
    factor = min(drawn * target[0] / source[0], drawn * target[1] / source[1])
    scaled = max(1, int(source[0] * factor)), max(1, int(source[1] * factor))
    place_x, place_y, mirror = rng.random(3)
    offset = int(max(0, scaled[1] - target[1]) * place_x), int(max(0, scaled[0] - target[0]) * place_y)
    size = min(target[0], scaled[0]), min(target[1], scaled[1])
    return Jitter(factor, scaled, offset, size, flip and bool(mirror < 0.5))


def evaluation_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(height, width) at which an image is evaluated: the short side `short`, the other one at most `longest`."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) or (H, W, channels) uint8 to (height, width), as Pillow's bilinear filter does it.

    Pillow's filter averages when it shrinks an image. When it enlarges one, we use OpenCV's, which agrees to 1/255 in a
    quarter of the time.
    """
    if image.shape[:2] == size:
        return image
    if size[0] >= image.shape[0] and size[1] >= image.shape[1]:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
