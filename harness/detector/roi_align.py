"""Pooling of box features from a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import ops

from backbones import level_of
from harness.config import RoiAlign
from harness.detector.boxes import area
from harness.detector.deterministic_roi_align import DeterministicRoiAlign

CANONICAL_LEVEL = level_of(16)  # where boxes of the canonical size are pooled (FPN, 1612.03144, equation 1)


def pool(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    resolution: int,
    canonical_size: float,
    kind: RoiAlign,
) -> Tensor:
    """(R, C, resolution, resolution) features of boxes (R, 4) in the images of index `image` (R,) int64.

    With `RoiAlign.exact`, empty boxes cost next to nothing and give zeros.
    """
    finest = level_of(strides[0])
    level = torch.floor(CANONICAL_LEVEL + torch.log2(area(boxes).sqrt() / canonical_size + 1e-8))
    level = level.clamp(finest, finest + len(strides) - 1).long() - finest
    if kind is RoiAlign.grid:
        return _bilinear(features, strides, boxes, image, level, resolution)
    pooled = None
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        # Boxes of other levels become empty ones, for which nothing is computed: no index list, no wait for its length.
        here = torch.where((level == index)[:, None], boxes, 0.0)
        rois = torch.cat([image[:, None].to(boxes.dtype), here], 1).to(feature.dtype)
        part = align(feature, rois, resolution, 1 / stride)
        pooled = part if pooled is None else pooled + part
    assert pooled is not None
    return pooled


def align(feature: Tensor, rois: Tensor, resolution: int, scale: float) -> Tensor:
    """RoIAlign of (n, C, H, W) over rois (R, 5), image index and xyxy corners, to (R, C, resolution, resolution).

    `scale` converts the corners to the feature's pixels. With deterministic algorithms on a GPU, torchvision switches
    to a Python version that allocates [R, C, resolution, resolution, H, W], 0.6 TiB at 4 images of 640² (pytorch/vision
    issue 8168). There we call its compiled operation ourselves, with a deterministic gradient of our own.
    """
    if torch.are_deterministic_algorithms_enabled() and feature.is_cuda:
        pooled: Tensor = DeterministicRoiAlign.apply(feature, rois, resolution, scale)  # type: ignore[no-untyped-call]
    else:
        pooled = ops.roi_align(feature, rois, resolution, scale, 0, aligned=True)
    return pooled


def _bilinear(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    resolution: int,
) -> Tensor:
    """One bilinear sample at the centre of each bin, as a weighted sum of four rows of a (locations, C) table."""
    channels = features[0].shape[1]
    table = torch.cat([feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features])
    shapes = [feature.shape[2:] for feature in features]
    starts = [sum(len(features[0]) * h * w for h, w in shapes[:i]) for i in range(len(shapes))]
    layout = torch.tensor([[s, h, w, t] for s, (h, w), t in zip(strides, shapes, starts, strict=True)])
    stride, height, width, start = layout.to(boxes.device, non_blocking=True)[level].unbind(1)

    bins = (torch.arange(resolution, device=boxes.device, dtype=boxes.dtype) + 0.5) / resolution
    corner, size = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[:, :, None]
    place = (corner + bins * size) / stride[:, None, None] - 0.5  # (R, 2, resolution)
    limit = torch.stack([width, height], 1)[:, :, None] - 1
    place = torch.minimum(place.clamp(min=0), limit.to(place.dtype))
    low = place.floor()
    part = place - low
    low = low.long()
    high = torch.minimum(low + 1, limit)

    ends, shares = torch.stack([low, high], -1), torch.stack([1 - part, part], -1)  # (R, 2, resolution, 2)
    rows, columns = ends[:, 1, :, None, :, None], ends[:, 0, None, :, None, :]
    weights = shares[:, 1, :, None, :, None] * shares[:, 0, None, :, None, :]
    base = (start + image * height * width)[:, None, None, None, None]
    index = base + rows * width[:, None, None, None, None] + columns  # (R, y, x, 2, 2)
    pooled = F.embedding_bag(
        index.reshape(-1, 4), table, per_sample_weights=weights.reshape(-1, 4).to(table.dtype), mode="sum"
    )
    return pooled.view(len(boxes), resolution, resolution, channels).permute(0, 3, 1, 2)
