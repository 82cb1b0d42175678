"""The engine for detectron2's models: any of its configurations, driven by our batches and evaluated by us."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco
import torch
from detectron2.layers import NaiveSyncBatchNorm, ROIAlign
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from harness.config import Precision, RunConfig
from harness.data.sample import Masks, Targets, View
from harness.engine.contract import Prediction
from harness.engine.detectron2.attribution import attributes_instances
from harness.engine.detectron2.backbones import build_trunk
from harness.engine.detectron2.catalogs import catalog_name
from harness.engine.detectron2.loading import load_detector, load_trunk
from harness.engine.detectron2.losses import attributes, ground_truth_loss_table, loss_table, predictors
from harness.engine.detectron2.model_config import DEFAULT, build_from
from harness.engine.passes import autocast, drawing_from
from harness.errors import UserError
from harness.weights.loading import load_backbone
from methods.contract import LossTable, Need, Proposals, Scope

log = logging.getLogger(__name__)

CAPABILITIES = frozenset({Need.PASTED_ATTRIBUTION, Need.GROUND_TRUTH_PROPOSALS, Need.INSTANCE_ATTRIBUTION})


def build(config: RunConfig, num_classes: int, image_counts: np.ndarray) -> Detectron2Engine:
    """The model of `engine.config` with `engine.overrides`, and with the backbone of that configuration.

    Without `engine.config`, Mask R-CNN with an FPN on the group `backbone`. Raises UserError.
    """
    wanted, backbone = config.engine, config.backbone
    trunk = None if wanted.config else build_trunk(backbone, config.schedule.activation_checkpointing)
    dataset = catalog_name(config.data)
    built = build_from(wanted.config or DEFAULT, wanted.overrides, trunk, dataset, image_counts, num_classes)
    if wanted.config:
        log.info("engine.config defines the backbone; the group `backbone` is ignored")
    if backbone.weights and trunk is not None:
        log.info("%s", load_backbone(trunk.trunk, Path(backbone.weights)))
    elif backbone.weights:
        log.info("%s", load_trunk(built.model, Path(backbone.weights)))
    elif built.weights and "://" not in built.weights:
        log.info("%s", load_trunk(built.model, Path(built.weights)))
    elif built.weights and config.train and not (config.weights or config.init_from):
        log.warning(
            "%s is not downloaded: give it with backbone.weights=FILE, or training starts from random weights",
            built.weights,
        )
    _check_norms(built.model, config.schedule.ranks)
    return Detectron2Engine(built.model, built.channels, min(len(image_counts), num_classes), config)


def _check_norms(model: nn.Module, ranks: int) -> None:
    """Raises UserError for a norm across ranks: they run different numbers of passes, so it would wait for ever."""
    synchronised = (nn.SyncBatchNorm, NaiveSyncBatchNorm)
    name = next((name for name, module in model.named_modules() if isinstance(module, synchronised)), None)
    if ranks > 1 and name:
        raise UserError(
            f"engine.config: {name} is a batch norm across ranks, which hangs when ranks decide differently; "
            "override its norm with BN, GN or FrozenBN"
        )


class Detectron2Engine:
    """Drives a detectron2 model. `channels` is the order that it takes, RGB or BGR.

    Of the trained classes the first `evaluated` are predicted. Mixed precision covers the backbone with its pyramid;
    heads and losses are in full precision. Random draws of the model come from torch's generator, seeded alike.
    """

    def __init__(self, module: nn.Module, channels: str, evaluated: int, config: RunConfig) -> None:
        self.module, self.channels, self.evaluated, self.train = module, channels, evaluated, config.train
        self.precision, self.channels_last = config.schedule.precision, config.schedule.channels_last
        self.capabilities = _capabilities(module)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

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
            self.module.backbone.eval()  # type: ignore[union-attr]
        inputs = [{"image": self._channels(view.image), "instances": instances_of(view)} for view in views]
        with drawing_from(rng), self._mixed():
            if proposals is Proposals.GROUND_TRUTH:
                return ground_truth_loss_table(self.module, inputs)
            return loss_table(self.module, inputs)

    @torch.no_grad()
    def backbone_features(self, images: Sequence[Tensor]) -> Tensor:
        """Of the trunk below the pyramid, where there is one."""
        self.module.eval()
        batch = self.module.preprocess_image([{"image": self._channels(image)} for image in images])  # type: ignore[operator]
        backbone: Any = self.module.backbone
        levels: dict[str, Tensor] = getattr(backbone, "bottom_up", backbone)(batch.tensor)
        return list(levels.values())[-1]

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        self.module.eval()
        inputs = [
            {"image": self._channels(image), "height": height, "width": width}
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
        with self._mixed(), self._without_extra_classes():
            return [_prediction(found["instances"]) for found in self.module(inputs)]

    def parameters(self, scope: Scope) -> list[nn.Parameter]:
        heads = [getattr(self.module, name, None) for name in ("proposal_generator", "head", "roi_heads")]
        parts: dict[Scope, list[nn.Module]] = {
            Scope.all: [self.module],
            Scope.heads: [head for head in heads if head is not None],
            Scope.last: [predictor.cls_score for predictor in predictors(self.module)],
        }
        return [p for part in parts[scope] for p in part.parameters() if p.requires_grad]

    def load(self, weights: Path, *, averaged: bool = True) -> str:
        return load_detector(self.module, weights, new_classes=self.train, averaged=averaged)

    def _channels(self, image: Tensor) -> Tensor:
        image = image.to(self.device, non_blocking=True)
        return image.flip(0) if self.channels == "BGR" else image

    @contextmanager
    def _mixed(self) -> Iterator[None]:
        """Runs the backbone in mixed precision and in the memory format of the schedule."""
        if self.precision is Precision.fp32 and not self.channels_last:
            yield
            return
        backbone: Any = self.module.backbone
        forward = backbone.forward

        def mixed(images: Tensor) -> dict[str, Tensor]:
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast(self.device, self.precision):
                features = forward(images)
            return {name: feature.float() for name, feature in features.items()}

        backbone.forward = mixed
        try:
            yield
        finally:
            del backbone.forward

    @contextmanager
    def _without_extra_classes(self) -> Iterator[None]:
        """Scores of classes that are trained but not evaluated become zero, so that they cost no detections."""
        changed = [p for p in predictors(self.module) if p.num_classes > self.evaluated]
        for predictor in changed:
            predictor.predict_probs = self._limited(predictor.predict_probs)
        try:
            yield
        finally:
            for predictor in changed:
                del predictor.predict_probs

    def _limited(self, predict_probs: Any) -> Any:
        def limited(predictions: Any, proposals: Any) -> list[Tensor]:
            scores = [each.clone() for each in predict_probs(predictions, proposals)]
            for each in scores:
                each[:, self.evaluated : -1] = 0
            return scores

        return limited


def _capabilities(module: nn.Module) -> frozenset[Need]:
    """What this model can do: some models' losses cannot be split by instance."""
    if not attributes(module):
        return frozenset()
    return CAPABILITIES if attributes_instances(module) else CAPABILITIES - {Need.INSTANCE_ATTRIBUTION}


# ------------------------------------------------------------------------------------------------ their structures


class SharedMasks(BitMasks):  # type: ignore[misc]
    """The masks of an image's instances, and the index of the one that each row stands for.

    detectron2 copies a mask over the whole image for every region that is matched to it; an index does as well.
    """

    def __init__(self, instances: Tensor, rows: Tensor) -> None:
        self.instances, self.rows = instances, rows
        self.image_size = instances.shape[1:]

    @classmethod
    def of(cls, masks: Masks) -> SharedMasks:
        """From crops, over the whole image."""
        height, width = masks.size
        n, h, w = masks.crops.shape
        full = masks.crops.new_zeros(n, height + h, width + w)
        for canvas, crop, (x, y) in zip(full, masks.crops, masks.origin.tolist(), strict=True):
            canvas[y : y + h, x : x + w] = crop
        return cls(full[:, :height, :width].bool(), torch.arange(n, device=masks.crops.device))

    @property
    def tensor(self) -> Tensor:
        """(rows, H, W) bool, as detectron2's own tools want them."""
        return self.instances[self.rows]

    @property
    def device(self) -> torch.device:
        return self.instances.device

    def to(self, *args: Any, **kwargs: Any) -> SharedMasks:
        return SharedMasks(self.instances.to(*args, **kwargs), self.rows.to(*args, **kwargs))

    def __getitem__(self, item: Any) -> SharedMasks:
        return SharedMasks(self.instances, self.rows[item].reshape(-1))

    def __len__(self) -> int:
        return len(self.rows)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """(k, s, s) bool: each row's mask inside its box, as BitMasks does it."""
        regions = torch.cat([self.rows.to(boxes)[:, None], boxes], dim=1).to(self.device)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        cropped: Tensor = align(self.instances.float()[:, None], regions).squeeze(1) >= 0.5
        return cropped


def instances_of(view: View) -> Instances:
    """Ground truth in detectron2's form. Regions inherit the index of the instance that they match."""
    targets: Targets = view.targets
    assert isinstance(targets.masks, Masks)  # polygons are the native engine's
    return Instances(
        view.size,
        gt_boxes=Boxes(targets.boxes),
        gt_classes=targets.labels,
        gt_masks=SharedMasks.of(targets.masks),
        gt_pasted=targets.pasted,
        gt_instance=torch.arange(len(targets), device=targets.boxes.device),
    )


def _prediction(found: Instances) -> Prediction:
    """Of a model without masks, each detection's mask is empty."""
    found = found.to("cpu")
    height, width = found.image_size
    if found.has("pred_masks"):
        masks = found.pred_masks.permute(1, 2, 0).numpy().astype(np.uint8)
    else:
        masks = np.zeros((height, width, len(found)), np.uint8)

    def encode() -> list[dict[str, object]]:
        encoded = coco.encode(np.asfortranarray(masks)) if len(found) else []
        return [{"size": [height, width], "counts": rle["counts"].decode("ascii")} for rle in encoded]

    return Prediction(
        boxes=found.pred_boxes.tensor.float(),
        scores=found.scores.float(),
        labels=found.pred_classes,
        encode=encode,
    )
