"""The harness's backbones in detectron2's configurations: its own Swin, and a ResNet-18 of any width, below its FPN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.backbone.swin import SwinTransformer

import backbones
from harness.errors import UserError

PLAIN = "build_resnet_fpn_backbone"  # detectron2's builder of a ResNet below an FPN
RESNETS = {"resnet18": 18, "resnet50": 50}
RGB = {"PIXEL_MEAN": [123.675, 116.28, 103.53], "PIXEL_STD": [58.395, 57.12, 57.375]}


def choose(cfg: CfgNode, backbone: Any) -> str:
    """Makes `backbone=` the trunk where the configuration lets it be chosen, and says what became of it.

    A ResNet-50 stays as it is configured. Raises UserError for a width that the configuration's pyramid cannot take.
    """
    name, plain = backbones.name_of(type(backbone)), cfg.MODEL.BACKBONE.NAME == PLAIN
    if name in RESNETS and "resnet" in cfg.MODEL.BACKBONE.NAME:
        _choose_resnet(cfg, RESNETS[name], backbone, plain)
    elif name.startswith("swin") and plain:
        _choose_swin(cfg, backbone)
    else:
        return f"engine.config keeps its own backbone ({cfg.MODEL.BACKBONE.NAME}); backbone={name} is not used"
    return f"backbone={name} in detectron2's layers"


def _choose_resnet(cfg: CfgNode, depth: int, backbone: Any, plain: bool) -> None:
    resnet = cfg.MODEL.RESNETS
    if resnet.DEPTH != depth:  # noqa: SIM300
        resnet.DEPTH, resnet.RES2_OUT_CHANNELS = depth, 64 if depth < 50 else 256
        cfg.MODEL.WEIGHTS = ""
    if not backbone.frozen_norm:
        resnet.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    if getattr(backbone, "width", 1.0) != 1.0:
        if not plain:
            raise UserError(
                f"backbone.width={backbone.width}: {cfg.MODEL.BACKBONE.NAME} has width 1 alone; set backbone.width=1.0"
            )
        cfg.MODEL.BACKBONE.NAME = _slim_resnet_fpn.__name__
        resnet.STEM_OUT_CHANNELS = max(8, round(backbone.width * 64 / 8) * 8)


def _choose_swin(cfg: CfgNode, backbone: Any) -> None:
    stages = len(backbone.depths)
    levels = [f"p{2 + i}" for i in range(stages)]
    model = cfg.MODEL
    model.BACKBONE.NAME = _swin_fpn.__name__
    model.SWIN = CfgNode(
        {
            "EMBED": backbone.embed,
            "DEPTHS": list(backbone.depths),
            "HEADS": list(backbone.heads),
            "WINDOW": backbone.window,
            "DROP_PATH": backbone.stochastic_depth,
        }
    )
    model.FPN.IN_FEATURES = [f"p{i}" for i in range(stages)]
    model.ROI_HEADS.IN_FEATURES = levels
    model.RPN.IN_FEATURES = [*levels, f"p{2 + stages}"]  # what is pooled from the last level lies on top
    model.ANCHOR_GENERATOR.SIZES = [[32 * 2**i] for i in range(stages + 1)]
    model.PIXEL_MEAN, model.PIXEL_STD, cfg.INPUT.FORMAT = RGB["PIXEL_MEAN"], RGB["PIXEL_STD"], "RGB"
    model.WEIGHTS = ""


def _pyramid(cfg: CfgNode, trunk: Backbone, last: str) -> FPN:
    pooled = LastLevelMaxPool()
    pooled.in_feature = last
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=trunk,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=pooled,
        fuse_type=fpn.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def _swin_fpn(cfg: CfgNode, input_shape: Any) -> FPN:
    swin = cfg.MODEL.SWIN
    trunk = SwinTransformer(
        embed_dim=swin.EMBED,
        depths=swin.DEPTHS,
        num_heads=swin.HEADS,
        window_size=swin.WINDOW,
        drop_path_rate=swin.DROP_PATH,
        out_indices=tuple(range(len(swin.DEPTHS))),
    )
    return _pyramid(cfg, trunk, cfg.MODEL.ROI_HEADS.IN_FEATURES[-1])


@BACKBONE_REGISTRY.register()
def _slim_resnet_fpn(cfg: CfgNode, input_shape: Any) -> FPN:
    """detectron2's own builder has ResNet-18 at its full width alone."""
    resnet, base = cfg.MODEL.RESNETS, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS
    stages, width = [], base
    for stage in range(4):
        out = base * 2**stage
        strides = [1 if stage == 0 else 2, 1]
        stages.append(
            ResNet.make_stage(
                BasicBlock, 2, stride_per_block=strides, in_channels=width, out_channels=out, norm=resnet.NORM
            )
        )
        width = out
    stem = BasicStem(in_channels=input_shape.channels, out_channels=base, norm=resnet.NORM)
    trunk = ResNet(stem, stages, out_features=resnet.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
    return _pyramid(cfg, trunk, cfg.MODEL.ROI_HEADS.IN_FEATURES[-1])
