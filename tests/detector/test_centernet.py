"""CenterNet's targets against their definition, location by location."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.data.sample import Masks, Targets
from harness.detector import boxes as box
from harness.detector.centernet import giou_loss
from harness.detector.centernet_targets import Grid, assign
from harness.detector.ground_truth import padded

RANGES = [(0.0, 24.0), (16.0, 48.0), (32.0, 1e7)]
STRIDES = [4, 8, 16]


def targets(boxes: np.ndarray) -> Targets:
    n = len(boxes)
    return Targets(
        torch.from_numpy(boxes.astype(np.float32).reshape(-1, 4)),
        torch.zeros(n, dtype=torch.long),
        Masks.empty(96, 128),
        torch.zeros(n, dtype=torch.bool),
        torch.full((n,), -1),
    )


def by_definition(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heatmap (M,), distances (M, 4) with -1 where nothing is regressed, and the sorted centre locations."""
    heat, distances, positives, first = [], [], [], 0
    for stride, (low, high) in zip(STRIDES, RANGES, strict=True):
        rows, columns = 96 // stride, 128 // stride
        for r in range(rows):
            for c in range(columns):
                x, y = c * stride + stride / 2, r * stride + stride / 2
                value, best, nearest = 0.0, [-1.0] * 4, math.inf
                for x0, y0, x1, y1 in boxes.tolist():
                    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
                    column, row = int(cx // stride), int(cy // stride)
                    radius2 = max(2 * (0.2 / 1.8) ** 2 * (x1 - x0) * (y1 - y0), 16)
                    d = 0 if (column, row) == (c, r) else ((x - cx) ** 2 + (y - cy) ** 2) / radius2
                    value = max(value, math.exp(-d))
                    sides = [x - x0, y - y0, x1 - x, y1 - y]
                    near = abs(column - c) <= 1 and abs(row - r) <= 1 and min(sides) > 0
                    if near and low <= math.hypot(x1 - x0, y1 - y0) / 2 <= high and d < nearest:
                        nearest, best = d, [s / stride for s in sides]
                heat.append(value if value >= 1e-4 else 0)
                distances.append(best)
        for x0, y0, x1, y1 in boxes.tolist():
            if low <= math.hypot(x1 - x0, y1 - y0) / 2 <= high:
                column, row = int((x0 + x1) / 2 // stride), int((y0 + y1) / 2 // stride)
                positives.append(first + row * columns + column)
        first += rows * columns
    return np.array(heat), np.array(distances), np.sort(positives)


@pytest.mark.parametrize("seed", range(3))
def test_targets_follow_their_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, [100, 70], (9, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(3, 90, (9, 2)), [128, 96])], 1).astype(np.float32)
    boxes[1] = boxes[0] + 1  # two that want the same locations
    shapes = [(96 // s, 128 // s) for s in STRIDES]
    grid = Grid.of(shapes, STRIDES, RANGES, torch.float32, torch.device("cpu"))
    truth = padded([targets(boxes), targets(boxes[:0]), targets(boxes[:2])], [(96, 128)] * 3, torch.float32)
    found = assign(truth, grid, 0.8, 4.0)
    for i, count in enumerate([9, 0, 2]):
        heat, distances, positives = by_definition(boxes[:count])
        np.testing.assert_allclose(found.heatmap[i], heat, atol=1e-5)
        regressed = distances[:, 0] >= 0
        np.testing.assert_array_equal(found.regressed[i], regressed)
        np.testing.assert_allclose(found.distances[i][found.regressed[i]], distances[regressed], atol=1e-4)
        np.testing.assert_array_equal(found.positives[i][found.is_positive[i]].sort().values, positives)


def test_boxes_come_back_from_distances() -> None:
    grid = Grid.of([(2, 3)], [8], [(0.0, 1.0)], torch.float32, torch.device("cpu"))
    boxes = grid.boxes(torch.tensor([1.0, 2.0, 3.0, 0.5]).expand(1, 6, 4))
    assert boxes[0, 4].tolist() == [12 - 8, 12 - 16, 12 + 24, 12 + 4]


def test_giou_by_hand() -> None:
    """Boxes [-1, 1]² and [-1, 3] x [-1, 1]: overlap 4, union 8, hull 8."""
    loss = giou_loss(torch.tensor([1.0, 1, 1, 1]), torch.tensor([1.0, 1, 3, 1]))
    assert loss.item() == pytest.approx(1 - 5 / 9)


def test_box_arithmetic() -> None:
    first = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4]])
    second = torch.tensor([[5.0, 0, 15, 10], [8, 8, 9, 9]])
    assert box.iou(first, second).tolist() == pytest.approx([50 / 150, 0])
    weights = torch.tensor([10.0, 10, 5, 5])
    torch.testing.assert_close(box.decode(first, box.encode(first, second, weights), weights), second)
    assert box.clip(second, torch.tensor([9.0, 12.0])).tolist() == [[5, 0, 12, 9], [8, 8, 9, 9]]
