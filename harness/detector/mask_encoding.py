"""From masks over boxes to run-length encodings over the image, without ever filling a canvas."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict[str, object]]:
    """COCO's compressed encodings over (height, width) of mask probabilities (k, s, s) over boxes (k, 4).

    A pixel belongs to a mask when the mask, sampled bilinearly at the pixel's centre, reaches one half. `counts` are
    ASCII strings.
    """
    encodings = []
    for mask, box in zip(masks.float().cpu(), boxes.float().cpu(), strict=True):
        bits, x, y = _inside_box(mask, box, height, width)
        encodings.append(_compressed(_run_lengths(bits, x, y, height, width), height, width))
    return encodings


def _inside_box(mask: Tensor, box: Tensor, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """The mask's pixels (h, w) bool around its box, and their corner x, y in the image."""
    x0, y0, x1, y1 = box.tolist()
    left, top = max(int(np.floor(x0)) - 1, 0), max(int(np.floor(y0)) - 1, 0)
    right, bottom = min(int(np.ceil(x1)) + 1, width), min(int(np.ceil(y1)) + 1, height)
    x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    sampled = F.grid_sample(mask[None, None], grid[None], align_corners=False)
    return (sampled[0, 0] >= 0.5).numpy(), left, top


def _run_lengths(bits: np.ndarray, x: int, y: int, height: int, width: int) -> list[int]:
    """Alternating lengths of background and foreground, column by column, of a window's bits in an image."""
    # A zero above and below each column makes every run start and end inside it.
    edges = np.diff(np.pad(bits.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    column, start = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    starts, ends = (x + column) * height + y + start, (x + column) * height + y + end
    if len(bits) == height:  # runs may go on from the foot of one column to the head of the next
        joined = starts[1:] == ends[:-1]
        starts, ends = starts[np.append(True, ~joined)[: len(starts)]], ends[np.append(~joined, True)[: len(ends)]]
    lengths = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0, append=height * width).tolist()
    return lengths if lengths[-1] else lengths[:-1]


def _compressed(counts: list[int], height: int, width: int) -> dict[str, object]:
    encoding = coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    return {"size": [height, width], "counts": encoding["counts"].decode("ascii")}
