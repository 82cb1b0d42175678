"""Resizing training images by large-scale jitter: ours against Pillow's, which it equals, and against OpenCV's.

    python -m tests.benchmarks.resizing [--images 200] [--size 640]

CPU time in one thread, of pictures of 480x640, for views drawn as in training. OpenCV's is its area filter where the
picture shrinks and an affine warp of the crop where it grows: fast, and not what the papers trained with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from harness.data.augment import Jitter, draw_jitter

SCALES = (0.1, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=640)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.normal(0, 90 / k, (k * 4, k * 4, 3)), (640, 480)) for k in (1, 4, 16, 64)]
    image = np.clip(sum(layers) + 128, 0, 255).astype(np.uint8)
    side = arguments.size
    views = [draw_jitter((480, 640), (side, side), SCALES, False, rng) for _ in range(arguments.images)]
    ways = {"ours": lambda view: view.image(image), "Pillow": _pillow(image), "OpenCV": _opencv(image)}
    found = {name: [way(view) for view in views] for name, way in ways.items()}
    seconds = {name: min(_seconds(way, views) for _ in range(3)) for name, way in ways.items()}
    for name in ways:
        each = 1000 * seconds[name] / len(views)
        pairs = zip(found[name], found["Pillow"], strict=True)
        apart = max(int(np.abs(view.astype(int) - other).max()) for view, other in pairs)
        ratio = seconds["ours"] / seconds[name]
        print(
            f"{name:<8}{each:6.2f} ms a view, at most {apart} of 255 from Pillow's; ours takes {ratio:.2f} of its time"
        )


def _seconds(way: Callable[[Jitter], np.ndarray], views: list[Jitter]) -> float:
    begun = time.process_time()
    for view in views:
        way(view)
    return time.process_time() - begun


def _pillow(image: np.ndarray) -> Callable[[Jitter], np.ndarray]:
    def view_of(view: Jitter) -> np.ndarray:
        whole = np.asarray(Image.fromarray(image).resize(view.scaled[::-1], Image.Resampling.BILINEAR))
        (x, y), (height, width) = view.offset, view.size
        return whole[y : y + height, x : x + width]

    return view_of


def _opencv(image: np.ndarray) -> Callable[[Jitter], np.ndarray]:
    def view_of(view: Jitter) -> np.ndarray:
        (x, y), (height, width) = view.offset, view.size
        if view.factor <= 1:
            return cv2.resize(image, view.scaled[::-1], interpolation=cv2.INTER_AREA)[y : y + height, x : x + width]
        scale_y, scale_x = (a / b for a, b in zip(image.shape[:2], view.scaled, strict=True))
        matrix = np.array([[scale_x, 0, (x + 0.5) * scale_x - 0.5], [0, scale_y, (y + 0.5) * scale_y - 0.5]])
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)

    return view_of


if __name__ == "__main__":
    main()
