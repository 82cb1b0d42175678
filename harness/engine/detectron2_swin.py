"""The harness's Swin backbones in detectron2's configurations: its own Swin, below its own pyramid."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.swin import SwinTransformer

BUILDER = "build_harness_swin_fpn_backbone"


def _build(cfg: Any, input_shape: Any) -> FPN:
    swin = cfg.MODEL.SWIN
    trunk = SwinTransformer(
        embed_dim=swin.EMBED,
        depths=swin.DEPTHS,
        num_heads=swin.HEADS,
        window_size=swin.WINDOW,
        drop_path_rate=swin.DROP_PATH,
        out_indices=tuple(range(len(swin.DEPTHS))),
    )
    pooled = LastLevelMaxPool()
    pooled.in_feature = f"p{1 + len(swin.DEPTHS)}"  # the pyramid's last level; p5 below four stages
    return FPN(
        bottom_up=trunk,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=pooled,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


_build.__name__ = BUILDER
BACKBONE_REGISTRY.register(_build)
