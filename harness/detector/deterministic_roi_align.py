"""RoIAlign whose gradient is equal to the bit from run to run on a GPU: torchvision's forward pass, and a backward pass
of matrix products in place of its atomic additions."""

from __future__ import annotations

from typing import Any

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

CHUNK_FLOATS = 2**26  # of a chunk's largest intermediate: 256 MiB


class DeterministicRoiAlign(torch.autograd.Function):
    """Pools (n, C, H, W) over rois (R, 5) to (R, C, s, s), as torchvision's operation with adaptive sampling, aligned.

    Bilinear sampling on a regular grid is separable: bin (p, q) is the sum of Y[p, h] X[q, w] times the feature at
    (h, w). So the gradient is Yᵀ G X, summed over regions in their order. Source: RoIAlign (1703.06870).
    """

    @staticmethod
    def forward(ctx: Any, feature: Tensor, rois: Tensor, resolution: int, scale: float) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.dtype, ctx.scale = feature.shape, feature.dtype, scale
        pooled: Tensor = torch.ops.torchvision.roi_align(feature, rois, scale, resolution, resolution, 0, True)
        return pooled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (rois,) = ctx.saved_tensors
        images, channels, height, width = ctx.shape
        resolution = gradient.shape[-1]
        found = torch.zeros(ctx.shape, device=gradient.device)
        step = max(1, CHUNK_FLOATS // (height * channels * resolution))
        for image in range(images):
            own = ((rois[:, 0] == image) & (rois[:, 3:] > rois[:, 1:3]).all(1)).nonzero().squeeze(1)
            for part in own.split(step):
                corners = rois[part, 1:].float() * ctx.scale - 0.5
                rows = _weights(corners[:, 1], corners[:, 3], resolution, height)  # (k, s, H)
                columns = _weights(corners[:, 0], corners[:, 2], resolution, width)
                grid = gradient[part].float().permute(0, 2, 1, 3).flatten(2)  # (k, s, C * s)
                tall = (rows.mT @ grid).view(len(part), height, channels, resolution)
                tall = tall.permute(2, 1, 0, 3).reshape(channels * height, len(part) * resolution)
                found[image] += (tall @ columns.flatten(0, 1)).view(channels, height, width)
        return found.to(ctx.dtype), None, None, None


def _weights(start: Tensor, end: Tensor, bins: int, size: int) -> Tensor:
    """(k, bins, size): the share that each place of an axis has in each bin of an interval (k,) in its coordinates."""
    length = (end - start) / bins
    samples = length.ceil()
    place = torch.arange(size, device=start.device)
    total = start.new_zeros(len(start), bins, size)
    first = start[:, None] + torch.arange(bins, device=start.device) * length[:, None]
    for sample in range(int(max(samples.tolist(), default=0))):
        at = first + (sample + 0.5) * (length / samples)[:, None]
        counts = (at >= -1) & (at <= size) & (sample < samples)[:, None]
        near = (1 - (at.clamp(0, size - 1)[:, :, None] - place).abs()).clamp(min=0)
        total += near * counts[:, :, None]
    return total / samples[:, None, None]
