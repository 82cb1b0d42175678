"""The engine of mmdet 3: its two-stage detectors, driven by our loop on our data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from backbones.registry import Backbone
from harness.config import Precision, RunConfig
from harness.data.sample import View
from harness.engine.contract import Prediction
from harness.engine.mmdet.first_import import import_yapf
from harness.engine.mmdet.operations import provide_operations
from harness.engine.passes import autocast, drawing_from
from harness.errors import UserError, first_line
from harness.weights.loading import load_backbone
from methods.contract import LossTable, Need, Proposals, Scope

import_yapf()
provide_operations()  # both before mmdet is imported

from mmdet.models.dense_heads import RPNHead  # noqa: E402
from mmdet.models.detectors import TwoStageDetector  # noqa: E402
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402

from harness.engine.mmdet.loading import load_weights  # noqa: E402
from harness.engine.mmdet.losses import counters_kept, ground_truth_losses, last_layers, proposal_losses, region_losses  # noqa: E402
from harness.engine.mmdet.model_config import parts, read_config, set_num_classes  # noqa: E402
from harness.engine.mmdet.samples import Packed, prediction, test_data, training_data  # noqa: E402

log = logging.getLogger(__name__)

CAPABILITIES = frozenset({Need.PASTED_ATTRIBUTION, Need.GROUND_TRUTH_PROPOSALS, Need.INSTANCE_ATTRIBUTION})

# Without `engine.config`: this one of mmdet's own, on the backbone of the configuration group.
DEFAULT_CONFIG = "lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1"
STRIDES = (4, 8, 16, 32)


def build(config: RunConfig, num_classes: int, image_counts: np.ndarray) -> MmdetEngine:
    """The detector of an mmdet configuration with `num_classes` classes. Raises UserError if it cannot be built.

    With `engine.config`, the backbone is that configuration's; without, Mask R-CNN on the group `backbone`.
    """
    register_all_modules(init_default_scope=True)
    settings = read_config(config.engine.config or DEFAULT_CONFIG, config.engine.overrides)
    model = settings.model
    if "roi_head" not in model:
        name = model.get("type")
        raise UserError(
            f"engine.config={config.engine.config}: {name} is not a two-stage detector; see docs/explanation/engines.md"
        )
    set_num_classes(model.roi_head, num_classes)
    trunk = None if config.engine.config else _trunk(config, model)
    pretrained = _pretrained(model, config) if trunk is None else {}
    try:
        module = MODELS.build(model)
    except (TypeError, KeyError, ValueError, AssertionError) as error:
        raise UserError(f"engine=mmdet cannot build this model: {first_line(error)}") from error
    _check(module, config)
    MMLogger.get_current_instance().setLevel("WARNING")  # it would print a paragraph for every parameter
    module.init_weights()
    if trunk:
        module.backbone = trunk
    for part, file in pretrained.items():
        log.info("%s", load_backbone(module.get_submodule(part), file) if part else load_weights(module, file))
    return MmdetEngine(module, config.schedule.precision, config.schedule.channels_last, len(image_counts))


class MmdetEngine:
    """Drives a two-stage detector of mmdet. Mixed precision covers backbone and neck; heads are in full precision."""

    capabilities = CAPABILITIES

    def __init__(self, module: Any, precision: Precision, channels_last: bool, evaluated: int) -> None:
        self.module, self.precision, self.channels_last = module, precision, channels_last
        self.evaluated = evaluated
        if channels_last:
            self.module.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.module.parameters()).device
        return device

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
        targets = [view.targets for view in views]
        aside = backbone_in_eval or proposals is Proposals.GROUND_TRUTH
        with drawing_from(rng), counters_kept(self.module, aside):
            features, samples = self._features(training_data(views), training=True)
            if proposals is Proposals.GROUND_TRUTH:
                return LossTable(ground_truth_losses(self.module.roi_head, features, samples, targets))
            table, found = self._proposals(features, samples)
            return LossTable(table | region_losses(self.module.roi_head, features, found, samples, targets))

    def _proposals(self, features: Sequence[Tensor], samples: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Losses of the proposal network, for which all instances are of one class, and what it proposes."""
        module = self.module
        settings = module.train_cfg.get("rpn_proposal", module.test_cfg.rpn)
        classless = []
        for sample in samples:
            alone = type(sample)(metainfo=sample.metainfo)
            truth = sample.gt_instances
            alone.gt_instances = type(truth)(bboxes=truth.bboxes, labels=torch.zeros_like(truth.labels))
            alone.ignored_instances = sample.ignored_instances
            classless.append(alone)
        return proposal_losses(module.rpn_head, features, classless, settings)

    @torch.no_grad()
    def backbone_features(self, images: Sequence[Tensor]) -> Tensor:
        self.module.eval()
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        data = self.module.data_preprocessor(test_data(images, sizes), False)
        levels: Sequence[Tensor] = self.module.backbone(data["inputs"])
        return levels[-1]

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        self.module.eval()
        features, samples = self._features(test_data(images, sizes), training=False)
        regions = self.module.rpn_head.predict(features, samples, rescale=False)
        found = self.module.roi_head.predict(features, regions, samples, rescale=True)
        kept = [each[each.labels < self.evaluated] for each in found]
        return [prediction(each, size) for each, size in zip(kept, sizes, strict=True)]

    def parameters(self, scope: Scope) -> list[nn.Parameter]:
        module = self.module
        parts: dict[Scope, list[nn.Module]] = {
            Scope.all: [module],
            Scope.heads: [module.rpn_head, module.roi_head],
            Scope.last: last_layers(module.roi_head),
        }
        return [p for part in parts[scope] for p in part.parameters() if p.requires_grad]

    def load(self, weights: Path, *, averaged: bool = True) -> str:
        return load_weights(self.module, weights, averaged=averaged)

    def _features(self, packed: Packed, training: bool) -> tuple[list[Tensor], list[Any]]:
        data = self.module.data_preprocessor(packed, training)
        batch = data["inputs"]
        if self.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            features = self.module.extract_feat(batch)
        return [feature.float() for feature in features], data["data_samples"]


# ---------------------------------------------------------------------------------------------------------- building


class _Trunk(nn.Module):
    """One of our backbones in place of mmdet's: returns a tuple of features instead of a dictionary."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk(images).values())


def _trunk(config: RunConfig, model: ConfigDict) -> _Trunk:
    """The backbone of the configuration group, its weights loaded; `model`'s neck is fitted to it."""
    member = cast(Backbone, config.backbone)
    try:
        trunk = member.build(STRIDES, config.schedule.activation_checkpointing)
    except ValueError as error:
        raise UserError(f"engine=mmdet needs a backbone of strides {STRIDES}: {error}") from error
    if member.weights:
        log.info("%s", load_backbone(trunk, Path(member.weights)))
    channels = cast(dict[int, int], trunk.channels)
    model.neck.in_channels = [channels[stride] for stride in STRIDES]
    model.backbone.init_cfg = None
    return _Trunk(trunk)


def _pretrained(model: ConfigDict, config: RunConfig) -> dict[str, Path]:
    """Files of pretrained weights for a configuration's own parts; none for parts that start from random weights.

    Removes these settings from `model`: mmengine would download the files and execute code in them.
    """
    log.info("engine.config defines the backbone; the group `backbone` is ignored")
    given = cast(Backbone, config.backbone).weights
    found = {"backbone": Path(given)} if given else {}
    for name, part in parts(model):
        if isinstance(part.get("pretrained"), str):  # as configurations of older versions say it
            part["init_cfg"] = {"type": "Pretrained", "checkpoint": part.pop("pretrained")}
        wish = part.get("init_cfg")
        if not isinstance(wish, dict) or wish.get("type") != "Pretrained":
            continue
        part["init_cfg"] = None
        file = wish["checkpoint"] if not name else given or wish["checkpoint"]
        if Path(file).is_file():
            found[name] = Path(file)
        elif not (config.weights or config.init_from):
            log.warning(
                "%s is not downloaded: give it with backbone.weights=FILE, or training starts from random weights", file
            )
    if given:
        model.backbone["init_cfg"] = None
    return found


def _check(module: Any, config: RunConfig) -> None:
    """Raises UserError for a model whose losses we cannot take apart by image."""
    reason = None
    if not isinstance(module, TwoStageDetector) or type(module).loss is not TwoStageDetector.loss:
        reason = f"{type(module).__name__} is not one of mmdet's two-stage detectors, or has losses of its own"
    elif not module.with_rpn:
        reason = f"{type(module).__name__} has no proposal network; it expects proposals from a file"
    elif not isinstance(module.rpn_head, RPNHead):
        reason = f"{type(module.rpn_head).__name__} is not an RPNHead"
    elif not isinstance(module.roi_head, StandardRoIHead | CascadeRoIHead):
        reason = f"{type(module.roi_head).__name__} is neither a StandardRoIHead nor a CascadeRoIHead"
    elif type(module.roi_head).loss not in (StandardRoIHead.loss, CascadeRoIHead.loss):
        reason = f"{type(module.roi_head).__name__} puts its losses together in its own way"
    elif config.engine.config and config.schedule.activation_checkpointing:
        reason = "mmdet's activation checkpointing is re-entrant; set schedule.activation_checkpointing=false"
    if reason:
        raise UserError(f"engine.config={config.engine.config}: {reason}; see docs/explanation/engines.md")
