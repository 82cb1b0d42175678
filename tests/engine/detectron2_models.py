"""Small detectron2 models on synthetic views, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import backbones
from harness.config import DataConfig, EngineConfig, Precision, RunConfig, ScheduleConfig
from harness.data.sample import View
from harness.engine import create
from harness.engine.contract import Engine

CLASSES = 6
SMALL = [
    "MODEL.FPN.OUT_CHANNELS=32",
    "MODEL.ANCHOR_GENERATOR.SIZES=[[16],[32],[48],[64],[128]]",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN=100",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=60",
    "MODEL.RPN.PRE_NMS_TOPK_TEST=100",
    "MODEL.RPN.POST_NMS_TOPK_TEST=40",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=32",
    "MODEL.ROI_BOX_HEAD.FC_DIM=64",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=16",
    "MODEL.ROI_MASK_HEAD.NUM_CONV=1",
    "TEST.DETECTIONS_PER_IMAGE=20",
]
CASCADE = ["MODEL.ROI_HEADS.NAME=CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG=True"]
FEDERATED = [
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE=True",
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS=True",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES=4",
]


def configuration(
    *overrides: str, backbone: str = "resnet18", config: str | None = None, weights: Path | None = None
) -> RunConfig:
    member = backbones.find(backbone)()
    member.weights = str(weights) if weights else None
    return RunConfig(
        engine=EngineConfig("detectron2", config, list(overrides)),
        backbone=member,
        schedule=ScheduleConfig(iterations=1, global_batch=1, batch_per_rank=1, lr=1.0, precision=Precision.fp32),
        data=DataConfig(name="toy", root="nowhere"),
    )


def engine_of(*overrides: str, classes: int = CLASSES, counted: int | None = None, **options: Any) -> Engine:
    torch.manual_seed(0)
    return create(configuration(*overrides, **options), classes, np.arange(1, (counted or classes) + 1))


def direct_inputs(views: list[View], channels: str) -> list[dict[str, Any]]:
    """The views as detectron2's own data pipeline would hand them to its models, with whole masks.

    `channels` is the order that the model's configuration asks for.
    """
    from detectron2.structures import BitMasks, Boxes, Instances

    return [
        {
            "image": view.image.flip(0) if channels == "BGR" else view.image,
            "instances": Instances(
                view.size,
                gt_boxes=Boxes(view.targets.boxes),
                gt_classes=view.targets.labels,
                gt_masks=BitMasks(view.targets.masks.full()),
            ),
        }
        for view in views
    ]


def direct_losses(engine: Engine, views: list[View], seed: int) -> dict[str, torch.Tensor]:
    """detectron2's own losses, its model called as its own training loop calls it."""
    from detectron2.utils.events import EventStorage

    engine.module.train()
    torch.manual_seed(seed)
    with EventStorage(0):
        losses: dict[str, torch.Tensor] = engine.module(direct_inputs(views, engine.channels))
    return losses
