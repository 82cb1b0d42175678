"""The harness's backbones below detectron2's FPN: the very networks that the other engines have."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from backbones import PIXEL_MEAN, PIXEL_STD, level_of
from harness.errors import UserError

STRIDES = (4, 8, 16, 32)
NAMES = tuple(f"res{level_of(stride)}" for stride in STRIDES)  # res2 to res5


class Trunk(Backbone):  # type: ignore[misc]
    """One of our backbones behind detectron2's interface: features by name instead of by stride."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self._out_features = list(NAMES)
        self._out_feature_strides = dict(zip(NAMES, STRIDES, strict=True))
        channels: dict[int, int] = trunk.channels  # type: ignore[assignment]
        self._out_feature_channels = {name: channels[stride] for name, stride in self._out_feature_strides.items()}

    @property
    def size_divisibility(self) -> int:
        return STRIDES[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images)
        return {name: features[stride] for name, stride in self._out_feature_strides.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        shapes: dict[str, ShapeSpec] = super().output_shape()
        return shapes


def build_trunk(backbone: Any, activation_checkpointing: bool) -> Trunk:
    """The network of the group `backbone`. Raises UserError for one that lacks some of an FPN's levels."""
    try:
        return Trunk(backbone.build(STRIDES, activation_checkpointing))
    except ValueError as error:
        raise UserError(f"engine=detectron2 needs a backbone of strides {STRIDES}: {error}") from error


def fit(cfg: CfgNode) -> None:
    """Sets a configuration's input format to what our backbones take."""
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.FPN.IN_FEATURES = list(NAMES)


def pyramid(cfg: CfgNode, trunk: Trunk) -> FPN:
    """detectron2's FPN with its pooled level, as `build_resnet_fpn_backbone` makes it."""
    return FPN(
        bottom_up=trunk,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
