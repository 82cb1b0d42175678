"""Resizing, cropping and flipping images together with their outlines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Jitter:
    """Large-scale jitter: resize to `scaled`, crop `size` at `offset`, mirror. All sizes (height, width) in pixels.

    An image that is smaller than the crop stays as it is; padding is the engine's. Source: simple copy-paste
    (2012.07177) as X-Paste trains with it.
    """

    source: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]  # x, y
    size: tuple[int, int]
    flip: bool

    @property
    def scale(self) -> tuple[float, float]:
        """By how much x and y are stretched."""
        return self.scaled[1] / self.source[1], self.scaled[0] / self.source[0]

    def image(self, image: np.ndarray) -> np.ndarray:
        """The view of an (H, W, channels) uint8 image, with pixels averaged where it shrinks."""
        (height, width), (x, y) = self.size, self.offset
        scale_x, scale_y = self.scale
        if self.scaled == self.source:
            view = image[y : y + height, x : x + width]
        elif scale_x > 1 and self.scaled != self.size:
            # The crop alone is computed; pixel centres lie at halves.
            matrix = np.array(
                [[1 / scale_x, 0, (x + 0.5) / scale_x - 0.5], [0, 1 / scale_y, (y + 0.5) / scale_y - 0.5]]
            )
            how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            view = cv2.warpAffine(image, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
        else:
            how = cv2.INTER_AREA if scale_x < 1 else cv2.INTER_LINEAR
            view = cv2.resize(image, self.scaled[::-1], interpolation=how)[y : y + height, x : x + width]
        return cv2.flip(view, 1) if self.flip else view

    def points(self, coordinates: np.ndarray) -> np.ndarray:
        """Where points x, y, x, y ... of the source lie in the view, in the same layout."""
        moved = np.empty(len(coordinates))
        scale_x, scale_y = self.scale
        moved[0::2] = coordinates[0::2] * scale_x - self.offset[0]
        moved[1::2] = coordinates[1::2] * scale_y - self.offset[1]
        if self.flip:
            moved[0::2] = self.size[1] - moved[0::2]
        return moved


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
    factor = rng.uniform(*scale_range) * min(target[0] / source[0], target[1] / source[1])
    scaled = max(1, int(source[0] * factor)), max(1, int(source[1] * factor))
    place_x, place_y, mirror = rng.random(3)
    offset = int(max(0, scaled[1] - target[1]) * place_x), int(max(0, scaled[0] - target[0]) * place_y)
    size = min(target[0], scaled[0]), min(target[1], scaled[1])
    return Jitter(source, scaled, offset, size, flip and bool(mirror < 0.5))


def evaluation_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(height, width) at which an image is evaluated: the short side `short`, the other one at most `longest`."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to (height, width), with pixels averaged where it shrinks."""
    if image.shape[:2] == size:
        return image
    how = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=how)
