"""mmcv's compiled operations from torchvision, where mmcv is installed without them (mmcv-lite).

Two-stage detectors need three: non-maximum suppression, and RoIAlign forward and backward.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor

from harness.errors import UserError

NAME = "mmcv._ext"
AVERAGE = 1  # mmcv's number of RoIAlign's pool mode
COMPILE = "MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0 (in place of mmcv-lite)"


def provide_operations() -> bool:
    """Registers the stand-in if mmcv lacks compiled operations; returns whether it did.

    Call this before importing mmdet.
    """
    if NAME not in sys.modules:
        if importlib.util.find_spec(NAME) is not None:
            return False
        sys.modules[NAME] = _StandIn(NAME)
    return isinstance(sys.modules[NAME], _StandIn)


class _StandIn(ModuleType):
    """The module that mmcv expects: it looks up every operation's name on import, and calls few."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward
        self.get_compiler_version = lambda: "none"
        self.get_compiling_cuda_version = lambda: "not available"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise UserError(f"engine=mmdet: this model needs mmcv's compiled operation {name}; {COMPILE}")

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (n, 4) xyxy that survive, best first. `offset`, which mmcv adds to sides, must be 0."""
    if offset:
        raise UserError(f"engine=mmdet: suppression with offset {offset} needs mmcv's compiled operations; {COMPILE}")
    kept: Tensor = torchvision.ops.nms(boxes, scores, iou_threshold)
    return kept


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes (R, C, aligned_height, aligned_width) to `output`."""
    _check(pool_mode)
    size = aligned_height, aligned_width
    output.copy_(torch.ops.torchvision.roi_align(features, rois, spatial_scale, *size, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the features' gradient, (n, C, H, W), to `grad_input`."""
    _check(pool_mode)
    size = aligned_height, aligned_width
    shape = grad_input.shape
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.contiguous(), rois, spatial_scale, *size, *shape, sampling_ratio, aligned
        )
    )


def _check(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise UserError(f"engine=mmdet: RoIAlign by maximum needs mmcv's compiled operations; {COMPILE}")
