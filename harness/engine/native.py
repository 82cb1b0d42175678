"""The engine that comes with the harness: CenterNet2 on torch, torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from backbones.registry import Backbone
from harness.config import Precision, RunConfig
from harness.data.sample import View
from harness.detector import boxes as box
from harness.detector.centernet2 import CenterNet2, Detections
from harness.detector.mask_encoding import encode_masks
from harness.engine.contract import Prediction
from harness.engine.passes import autocast, drawing_from
from harness.errors import UserError
from harness.weights.loading import load_backbone, load_published
from methods.contract import LossTable, Need, Proposals, Scope

CAPABILITIES = frozenset(Need)


def build(config: RunConfig, num_classes: int, image_counts: np.ndarray) -> NativeEngine:
    """The detector of a configuration, with its backbone's pretrained weights.

    Raises UserError when detector and backbone do not fit or weights cannot be loaded.
    """
    member = cast(Backbone, config.backbone)
    try:
        backbone = member.build(config.detector.strides, config.schedule.activation_checkpointing)
        module = CenterNet2(config.detector, backbone, num_classes, image_counts)
    except ValueError as error:
        raise UserError(f"detector and backbone do not fit: {error}") from error
    if member.weights:
        load_backbone(backbone, Path(member.weights))
    schedule = config.schedule
    engine = NativeEngine(module, schedule.precision, schedule.channels_last, config.train, config.evaluation.mixed)
    if schedule.compile:
        engine.compile()
    return engine


class NativeEngine:
    """Drives a CenterNet2.

    Mixed precision covers backbone and pyramid in training, like the published code, and in prediction with
    `predict_mixed`; with `detector.autocast_heads` it also covers the heads' layers and prediction. Boxes, targets and
    losses are always in full precision.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        module: CenterNet2,
        precision: Precision,
        channels_last: bool,
        train: bool = True,
        predict_mixed: bool = False,
    ) -> None:
        self.module, self.train, self.predict_mixed = module, train, predict_mixed
        self.precision, self.channels_last = precision, channels_last
        if channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._trained_features = module.features

    def compile(self) -> None:
        """Compiles backbone and pyramid for training. Prediction, whose sizes change, stays uncompiled."""
        # Several backward passes go through one view's graph; donated buffers would be lost after the first.
        torch._functorch.config.donated_buffer = False
        self._trained_features = torch.compile(self.module.features)

    @property
    def device(self) -> torch.device:
        return self.module.pixel_mean.device

    def losses(
        self,
        views: Sequence[View],
        proposals: Proposals,
        rng: torch.Generator,
        *,
        backbone_in_eval: bool = False,
    ) -> LossTable:
        self.module.train()
        if backbone_in_eval:
            self.module.backbone.eval()
        with drawing_from(rng):
            features = self._features([view.image for view in views], self._trained_features, mixed=True)
        with autocast(self.device, self.precision, self.module.config.autocast_heads):
            table = self.module.losses(
                features, [view.targets for view in views], [view.size for view in views], proposals, rng
            )
        return replace(table, trace=features)

    @torch.no_grad()
    def shared_counts(self, views: Sequence[View]) -> dict[str, Tensor]:
        targets = [view.targets.to(self.device) for view in views]
        return self.module.shared_counts(targets, [view.size for view in views])

    @torch.no_grad()
    def confidence(self, views: Sequence[View], table: LossTable) -> Tensor:
        assert isinstance(table.trace, list)
        with autocast(self.device, self.precision, self.module.config.autocast_heads):
            return self.module.confidence(table.trace, [view.targets for view in views], [view.size for view in views])

    @torch.no_grad()
    def backbone_features(self, images: Sequence[Tensor]) -> Tensor:
        self.module.eval()
        levels: dict[int, Tensor] = self.module.backbone(self.module.batch(images))
        return levels[max(levels)]

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        self.module.eval()
        heads = self.module.config.autocast_heads
        on_device = [image.to(self.device, non_blocking=True) for image in images]
        features = self._features(on_device, self.module.features, mixed=heads or self.predict_mixed)
        input_sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        with autocast(self.device, self.precision, heads):
            found = self.module.detect(features, input_sizes)
        return [_prediction(*each) for each in zip(found, input_sizes, sizes, strict=True)]

    def parameters(self, scope: Scope) -> list[nn.Parameter]:
        module = self.module
        parts: dict[Scope, list[nn.Module]] = {
            Scope.all: [module],
            Scope.heads: [module.proposal_network, module.cascade, module.mask_head],
            Scope.last: [predictor.cls_score for predictor in module.cascade.box_predictor],  # type: ignore[misc]
        }
        return [p for part in parts[scope] for p in part.parameters() if p.requires_grad]

    def load(self, weights: Path, *, averaged: bool = True) -> str:
        return str(load_published(self.module, weights, new_classes=self.train, averaged=averaged))

    def _features(
        self, images: Sequence[Tensor], features_of: Callable[[Tensor], list[Tensor]], mixed: bool
    ) -> list[Tensor]:
        batch = self.module.batch(images)
        if self.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision, mixed):
            features = features_of(batch)
        if self.module.config.autocast_heads:
            return features
        return [box.full_precision(feature) for feature in features]


def _prediction(found: Detections, input_size: tuple[int, int], size: tuple[int, int]) -> Prediction:
    """Detections in the detector's input, brought to the image as it lies on disk. Sizes are (height, width)."""
    height, width = size
    scale = found.boxes.new_tensor([width / input_size[1], height / input_size[0]]).repeat(2)
    boxes = box.clip(found.boxes * scale, found.boxes.new_tensor([height, width]))
    keep = box.nonempty(boxes)
    boxes, masks = boxes[keep].cpu(), found.masks[keep].cpu()
    return Prediction(
        boxes=boxes.float(),
        scores=found.scores[keep].float().cpu(),
        labels=found.labels[keep].cpu(),
        encode=lambda: encode_masks(masks, boxes, height, width),
    )
