"""Encoding the masks of an image's 300 detections, over boxes of real annotations.

    python -m tests.benchmarks.mask_encoding [--images 20]

CPU time of one thread an image, of 480 × 640 pixels. The second column makes every box three times as large, cut at the
border. Against it stands each mask sampled by itself, as `F.grid_sample` and pycocotools do it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F

from harness.config import RunConfig
from harness.detector.mask_encoding import encode_masks
from harness.training.torch_settings import prepare_torch
from tests.evaluate.made_detections import REAL

HEIGHT, WIDTH, DETECTIONS = 480, 640, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    count = parser.parse_args().images
    prepare_torch(RunConfig())
    for name, factor in (("as annotated", 1.0), ("three times as large", 3.0)):
        images = [detections(seed, factor) for seed in range(count)]
        ours, one_by_one = (milliseconds(encode, images) for encode in (encode_masks, each_by_itself))
        print(f"{name}: {ours:.0f} ms an image, one by one {one_by_one:.0f} ms")
        assert all(encode_masks(*image) == each_by_itself(*image) for image in images[:5])


def detections(seed: int, factor: float) -> tuple[Tensor, Tensor, int, int]:
    """(masks (k, 28, 28), boxes (k, 4), height, width): smooth random masks over real boxes."""
    draws, rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    real = np.array([entry["bbox"] for entry in json.loads(REAL.read_text())["annotations"]])
    boxes = real[draws.choice(len(real), DETECTIONS)]
    centre, half = boxes[:, :2] + boxes[:, 2:] / 2, factor * boxes[:, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], 1).clip(0, [WIDTH, HEIGHT] * 2)
    corners = corners[(corners[:, 2:] > corners[:, :2]).all(1)]
    coarse = torch.rand(len(corners), 1, 7, 7, generator=rng)
    masks = F.interpolate(coarse, (28, 28), mode="bilinear")[:, 0]
    return masks, torch.from_numpy(corners).float(), HEIGHT, WIDTH


def each_by_itself(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict[str, object]]:
    found = []
    for mask, box in zip(masks, boxes, strict=True):
        x0, y0, x1, y1 = box.tolist()
        left, top = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
        right, bottom = min(int(np.ceil(x1)) + 1, width), min(int(np.ceil(y1)) + 1, height)
        x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        canvas = np.zeros((height, width), np.uint8, order="F")
        canvas[top:bottom, left:right] = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] >= 0.5
        found.append({"size": [height, width], "counts": coco.encode(canvas)["counts"].decode("ascii")})
    return found


def milliseconds(encode: Callable[..., object], images: list[tuple[Tensor, Tensor, int, int]]) -> float:
    encode(*images[0])
    begun = time.process_time()
    for image in images:
        encode(*image)
    return 1000 * (time.process_time() - begun) / len(images)


if __name__ == "__main__":
    main()
