"""The training targets of CenterNet's head: a heatmap, distances to box sides, and the centres themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.detector.boxes import area
from harness.detector.ground_truth import Truth, on_device

HEATMAP_FLOOR = 1e-4  # below, the heatmap is zero
FAR = 1e8


@dataclass(frozen=True)
class Grid:
    """The M locations of a pyramid's levels, finest level first, row by row.

    centres (M, 2) x, y in pixels; stride (M,); ranges (M, 2) half diagonals that the level is responsible for;
    lengths: locations of each level; levels (L, 3) stride and range of each; shapes (L, 3) int64, each level's first
    location, height and width.
    """

    centres: Tensor
    stride: Tensor
    ranges: Tensor
    lengths: list[int]
    levels: Tensor
    shapes: Tensor

    @classmethod
    def of(
        cls,
        shapes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        size_ranges: Sequence[Sequence[float]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Grid:
        """The grid of levels with these shapes (H, W) and strides."""
        centres = []
        for (height, width), stride in zip(shapes, strides, strict=True):
            y, x = (torch.arange(n, device=device, dtype=dtype) * stride + stride // 2 for n in (height, width))
            centres.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1))
        lengths = [height * width for height, width in shapes]
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        table = [[s, *r] for s, r in zip(strides, size_ranges, strict=True)]
        levels = on_device(torch.tensor(table, dtype=dtype), device)
        layout = [[start, height, width] for start, (height, width) in zip(starts, shapes, strict=True)]
        per_location = torch.cat([row.expand(length, 3) for row, length in zip(levels, lengths, strict=True)])
        return cls(
            centres=torch.cat(centres),
            stride=per_location[:, 0],
            ranges=per_location[:, 1:],
            lengths=lengths,
            levels=levels,
            shapes=on_device(torch.tensor(layout), device),
        )

    def boxes(self, distances: Tensor) -> Tensor:
        """Boxes (n, M, 4) of distances (n, M, 4) in strides."""
        pixels = distances * self.stride[:, None]
        return torch.cat([self.centres - pixels[..., :2], self.centres + pixels[..., 2:]], -1)


@dataclass(frozen=True)
class GridTargets:
    """heatmap (n, M) in 0..1; distances (n, M, 4) in strides, read where regressed (n, M) bool.

    instance (n, M) int64 is the one that a location regresses. positives (n, G·L) int64 are the locations of centres,
    level by level within an instance, counted where is_positive (n, G·L) bool.
    """

    heatmap: Tensor
    distances: Tensor
    regressed: Tensor
    instance: Tensor
    positives: Tensor
    is_positive: Tensor


@torch.no_grad()
def assign(truth: Truth, grid: Grid, overlap: float, min_radius: float) -> GridTargets:
    """Targets of every location.

    A box belongs to the levels whose range holds half its diagonal. There the 3x3 locations around its centre regress
    it; where several boxes compete for one, the box with the nearest centre (in units of its own radius) wins. The
    heatmap is a Gaussian around each centre on every level, with the radius at which boxes still overlap by `overlap`.
    Source: CenterNet2 (2103.07461).
    """
    boxes = truth.boxes[:, None]  # (n, 1, G, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    location, stride = grid.centres[None, :, None], grid.stride[None, :, None]

    before, behind = location - boxes[..., :2], boxes[..., 2:] - location  # (n, M, G, 2)
    inside = torch.minimum(before, behind).amin(-1) > 0
    cell_centre = (centres / stride[..., None]).floor() * stride[..., None] + stride[..., None] / 2
    offset = (location - cell_centre).abs()
    near = (offset <= stride[..., None]).all(-1)
    half_diagonal = (before + behind).square().sum(-1).sqrt() / 2
    in_range = _within(half_diagonal, grid.ranges[None, :, None])
    wanted = near & inside & in_range & truth.present[:, None]

    delta = (1 - overlap) / (1 + overlap)
    radius = (delta**2 * 2 * area(truth.boxes)).clamp(min=min_radius**2)
    distance = (location - centres).square().sum(-1)
    distance = distance.masked_fill((offset == 0).all(-1), 0) / radius[:, None]
    heatmap = torch.exp(-distance.masked_fill(~truth.present[:, None], FAR).amin(-1))

    nearest, instance = distance.masked_fill(~wanted, FAR).min(-1)
    pick = instance[..., None, None].expand(-1, -1, 1, 2)
    sides = torch.cat([before.gather(2, pick), behind.gather(2, pick)], -1).squeeze(2)

    positives, is_positive = _centres(truth, grid)
    return GridTargets(
        heatmap=heatmap.masked_fill(heatmap < HEATMAP_FLOOR, 0),
        distances=sides / grid.stride[:, None],
        regressed=nearest < FAR,
        instance=instance,
        positives=positives,
        is_positive=is_positive,
    )


def _centres(truth: Truth, grid: Grid) -> tuple[Tensor, Tensor]:
    """(n, G·L) location of each box's centre on each level, and whether the box belongs to that level."""
    boxes = truth.boxes[:, :, None]  # (n, G, 1, 4)
    half_diagonal = (boxes[..., 2:] - boxes[..., :2]).square().sum(-1).sqrt() / 2
    belongs = _within(half_diagonal, grid.levels[:, 1:]) & truth.present[:, :, None]
    cell = ((boxes[..., :2] + boxes[..., 2:]) / 2 / grid.levels[:, :1]).long()
    start, height, width = grid.shapes.unbind(1)
    column = torch.minimum(cell[..., 0].clamp(min=0), width - 1)  # a centre outside the image: the nearest cell
    row = torch.minimum(cell[..., 1].clamp(min=0), height - 1)
    return (start + row * width + column).flatten(1), belongs.flatten(1)


def _within(value: Tensor, ranges: Tensor) -> Tensor:
    return (value >= ranges[..., 0]) & (value <= ranges[..., 1])
