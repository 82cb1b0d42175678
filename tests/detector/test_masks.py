"""Mask targets and mask encodings against the same over the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from harness.data.sample import Masks
from harness.detector import mask_head
from harness.detector.mask_encoding import encode_masks
from harness.detector.mask_head import crop_and_resize


def over_the_image(full: Tensor, instance: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    rois = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], 1)
    return roi_align(full[instance].float()[:, None], rois, resolution, 1.0, 0, aligned=True)[:, 0] >= 0.5


def blobs(rng: np.random.Generator, count: int, height: int, width: int) -> Tensor:
    """Masks of any place and size: single pixels, holes, the whole image, touching each border, and empty ones."""
    full = np.zeros((count, height, width), np.uint8)
    for mask in full:
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        mask[y : y + h, x : x + w] = rng.random((h, w)) < rng.choice([0.3, 0.7, 1.0])
    full[0] = 1
    full[1] = 0
    full[2] = 0
    full[2, -1, -1] = 1
    return torch.from_numpy(full)


@pytest.mark.parametrize("seed", range(6))
def test_targets_equal_those_of_whole_masks(seed: int) -> None:
    """Boxes inside, across and beyond the image's borders, down to slivers; 9 % of them beyond by more than a pixel."""
    rng = np.random.default_rng(seed)
    height, width = (37, 53) if seed % 2 else (64, 40)
    full = blobs(rng, 12, height, width)
    boxes = torch.from_numpy(rng.uniform(-6, [width, height], (400, 2)).astype(np.float32))
    sides = torch.from_numpy(rng.choice([0.3, 3, 15, 60], (400, 2)) * rng.uniform(0.5, 1.5, (400, 2))).float()
    boxes = torch.cat([boxes, boxes + sides], 1)
    boxes[:12] = torch.tensor([0.0, 0, width, height])
    instance = torch.from_numpy(rng.integers(0, 12, 400))
    instance[:12] = torch.arange(12)
    masks = Masks.from_full(full)
    keep = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[:7]  # windows of any largest size
    for chosen, places in ((torch.arange(12), instance), (keep, torch.from_numpy(rng.integers(0, 7, 400)))):
        mine = crop_and_resize(masks[chosen], places, boxes, 14)
        expected = over_the_image(full[chosen], places, boxes, 14)
        # A sample exactly on one half may fall on either side of it; the sums differ in their order alone.
        assert (mine != expected).float().mean() < 1e-4
        assert expected.any()


def test_a_dense_image_in_turn_is_equal_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    masks = Masks.from_full(blobs(rng, 23, 40, 60))
    corner = torch.from_numpy(rng.uniform(-3, [60, 40], (300, 2)))
    boxes = torch.cat([corner, corner + torch.from_numpy(rng.uniform(0, 40, (300, 2)))], 1).float()
    instance = torch.from_numpy(rng.integers(0, 23, 300))
    whole = crop_and_resize(masks, instance, boxes, 14)
    for most in (1, 5 * masks.crops[0].numel()):
        monkeypatch.setattr(mask_head, "MOST_PIXELS", most)
        assert torch.equal(crop_and_resize(masks, instance, boxes, 14), whole)
    assert whole.any()


def test_no_instance_and_empty_boxes_give_empty_targets() -> None:
    boxes = torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 3]])
    none = crop_and_resize(Masks.empty(20, 30), torch.zeros(2, dtype=torch.long), boxes, 4)
    assert none.shape == (2, 4, 4)
    assert not none.any()
    one = crop_and_resize(Masks.from_full(torch.ones(1, 20, 30)), torch.zeros(2, dtype=torch.long), boxes, 4)
    assert one[0].all()
    assert not one[1].any()


def on_a_canvas(masks: Tensor, boxes: Tensor, height: int, width: int) -> np.ndarray:
    """Every mask sampled at every pixel of the image: what encoding by boxes must equal."""
    x0, y0, x1, y1 = boxes.split(1, 1)
    x = ((torch.arange(width) + 0.5) - x0) / (x1 - x0) * 2 - 1
    y = ((torch.arange(height) + 0.5) - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    return (F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_encodings_equal_whole_canvases(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (48, 71) if seed % 2 else (90, 33)
    corner = rng.uniform(0, [width - 1, height - 1], (40, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(0.2, 60, (40, 2)), [width, height])], 1)
    boxes[0] = [0, 0, width, height]
    boxes[1] = [0, 0, 5, height]
    boxes[2] = [width - 4, 0, width, height]
    masks = torch.from_numpy(rng.random((40, 28, 28)) ** rng.choice([0.2, 1, 3], (40, 1, 1))).float()
    masks[:3] = 1
    masks[3] = 0
    boxes = torch.from_numpy(boxes).float()
    rles = encode_masks(masks, boxes, height, width)
    expected = on_a_canvas(masks, boxes, height, width)
    assert expected[:3].any()
    for rle, canvas in zip(rles, expected, strict=True):
        assert rle["size"] == [height, width]
        np.testing.assert_array_equal(coco.decode(rle), canvas)
        assert rle["counts"] == coco.encode(np.asfortranarray(canvas.astype(np.uint8)))["counts"].decode()


def test_no_detections_no_encodings() -> None:
    assert encode_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 10, 10) == []
