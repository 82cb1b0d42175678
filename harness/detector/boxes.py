"""Box arithmetic. Boxes are xyxy in pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)  # a regression step enlarges a side by this much at most


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes (..., 4) that broadcast against each other; 0 where they do not overlap."""
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    intersection = sides.clamp(min=0).prod(-1)
    union = area(first) + area(second) - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (R, 4) clipped to images of sizes (R, 2) or (2,), each H, W."""
    limits = sizes[..., [1, 0, 1, 0]]
    return torch.minimum(boxes.clamp(min=0), limits)


def nonempty(boxes: Tensor) -> Tensor:
    """(...) bool: which boxes (..., 4) have a positive width and height."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def encode(boxes: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Regression targets (R, 4): centre shifts over side lengths and log side ratios, times `weights` (4,).

    Source: R-CNN (1311.2524), appendix C.
    """
    size, goal = boxes[:, 2:] - boxes[:, :2], target[:, 2:] - target[:, :2]
    centre, goal_centre = boxes[:, :2] + 0.5 * size, target[:, :2] + 0.5 * goal
    return weights * torch.cat([(goal_centre - centre) / size, torch.log(goal / size)], 1)


def decode(boxes: Tensor, deltas: Tensor, weights: Tensor) -> Tensor:
    """Inverse of `encode`, with side ratios limited to 1000 / 16."""
    size = boxes[:, 2:] - boxes[:, :2]
    shift, scale = (deltas / weights).split(2, 1)
    centre = shift * size + (boxes[:, :2] + 0.5 * size)
    half = 0.5 * (torch.exp(scale.clamp(max=MAX_LOG_SCALE)) * size)
    return torch.cat([centre - half, centre + half], 1)


def full_precision(x: Tensor) -> Tensor:
    """Half-precision values as float32; float32 and float64 unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
