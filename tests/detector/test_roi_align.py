from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from harness.config import RoiAlign
from harness.detector.roi_align import pool
from tests.detector.small import generator

STRIDES = [8, 16, 32]


def pyramid() -> list[Tensor]:
    return [torch.randn(3, 5, 256 // s, 320 // s, generator=generator(s)).requires_grad_() for s in STRIDES]


def boxes(count: int) -> tuple[Tensor, Tensor]:
    rng = generator()
    corner = torch.rand(count, 2, generator=rng) * torch.tensor([320.0, 256.0]) - 10
    side = 6 * torch.exp(4.2 * torch.rand(count, 2, generator=rng))
    return torch.cat([corner, corner + side], 1), torch.randint(0, 3, (count,), generator=rng)


def level_of(one: Tensor) -> int:
    """With a canonical size of 112, which belongs to stride 16."""
    side = ((one[2] - one[0]) * (one[3] - one[1])).sqrt().item()
    return 0 if side < 112 else 1 if side < 224 else 2


def test_exact_pools_each_box_from_its_level() -> None:
    features, (rois, image) = pyramid(), boxes(60)
    pooled = pool(features, STRIDES, rois, image, 7, 112.0, RoiAlign.exact)
    levels = [level_of(one) for one in rois]
    assert set(levels) == {0, 1, 2}
    for one, i, level, mine in zip(rois, image, levels, pooled, strict=True):
        expected = roi_align(features[level][i : i + 1], [one[None]], 7, 1 / STRIDES[level], 0, aligned=True)
        torch.testing.assert_close(mine, expected[0])


def test_grid_takes_one_sample_at_each_bins_centre() -> None:
    features, (rois, image) = pyramid(), boxes(40)
    pooled = pool(features, STRIDES, rois, image, 7, 112.0, RoiAlign.grid)
    for one, i, mine in zip(rois, image, pooled, strict=True):
        feature = features[level_of(one)][i : i + 1]
        bins = (torch.arange(7) + 0.5) / 7
        x, y = one[0] + bins * (one[2] - one[0]), one[1] + bins * (one[3] - one[1])
        grid = torch.stack(torch.meshgrid(x / 320 * 2 - 1, y / 256 * 2 - 1, indexing="xy"), -1)
        expected = F.grid_sample(feature, grid[None], align_corners=False, padding_mode="border")
        torch.testing.assert_close(mine, expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(RoiAlign))
def test_gradients_reach_every_level(kind: RoiAlign) -> None:
    features, (rois, image) = [f.detach().double().requires_grad_() for f in pyramid()], boxes(60)
    pooled = pool(features, STRIDES, rois.double(), image, 3, 112.0, kind)
    gradients = torch.autograd.grad(pooled.square().sum(), features)
    for feature, gradient in zip(features, gradients, strict=True):
        place = int(gradient.abs().flatten().argmax())
        moved = feature.detach().clone().flatten()
        values = []
        for step in (1e-5, -1e-5):
            shifted = moved.clone()
            shifted[place] += step
            others = [shifted.view_as(feature) if f is feature else f.detach() for f in features]
            values.append(pool(others, STRIDES, rois.double(), image, 3, 112.0, kind).square().sum())
        assert gradient.flatten()[place].item() == pytest.approx(((values[0] - values[1]) / 2e-5).item(), rel=1e-5)


@pytest.mark.parametrize("kind", list(RoiAlign))
def test_no_boxes(kind: RoiAlign) -> None:
    pooled = pool(pyramid(), STRIDES, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 7, 112.0, kind)
    assert pooled.shape == (0, 5, 7, 7)
