"""CenterNet2 (2103.07461) for LVIS: backbone, pyramid, CenterNet proposals, box cascade, mask head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms

from backbones import PIXEL_MEAN, PIXEL_STD
from harness.config import DetectorConfig
from harness.data.sample import Targets
from harness.detector import boxes as box
from harness.detector.cascade import Cascade, Matches, Rois
from harness.detector.centernet import ProposalNetwork
from harness.detector.fpn import FPN
from harness.detector.ground_truth import Truth, on_device, padded
from harness.detector.mask_head import MaskHead
from harness.detector.sampling import (
    FederatedClasses,
    FederatedDraw,
    ProposalSampler,
    RandomProposals,
    federated_weights,
)
from methods.contract import Loss, LossTable, Proposals

SIZE_MULTIPLE = 32
FIRST_CANDIDATES = 6000  # up to this many, torchvision suppresses class by class, without its inexact coordinate shift


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first, in pixels of the detector's input.

    boxes (k, 4); scores (k,); labels (k,) int64; masks (k, s, s) probabilities over each box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class CenterNet2(nn.Module):
    """The detector. `sampler` and `federated` are its random draws, for a test to replace.

    `num_classes` are trained; of these the first `evaluated` are predicted, so extra categories cost nothing
    at test time. `image_counts` (evaluated,) are the training images per category.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig, backbone: nn.Module, num_classes: int, image_counts: np.ndarray) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.evaluated = min(len(image_counts), num_classes)
        self.backbone = backbone
        self.fpn = FPN(backbone.channels, config.strides, config.channels, config.extra_levels)  # type: ignore[arg-type]
        self.proposal_network = ProposalNetwork(config, self.fpn.strides)
        self.cascade = Cascade(config, config.strides, num_classes)
        self.mask_head = MaskHead(config, config.strides)
        self.sampler: ProposalSampler = RandomProposals(config.proposals_per_image, config.positive_fraction)
        weights = federated_weights(
            torch.tensor(image_counts), num_classes, config.federated_power, config.federated_extra_images
        )
        self.federated: FederatedDraw | None = (
            FederatedClasses(weights, config.federated_classes) if config.federated else None
        )
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """(n, 3, H, W) normalised images, H and W multiples of 32, with zeros at the right and bottom.

        `images` (3, h, w) are RGB in 0..255, on the module's device.
        """
        height, width = _batch_size([(image.shape[1], image.shape[2]) for image in images])
        together = self.pixel_mean.expand(len(images), 3, height, width).clone()
        for place, image in zip(together, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        return (together - self.pixel_mean) / self.pixel_std

    def features(self, batch: Tensor) -> list[Tensor]:
        """The pyramid's levels, finest first."""
        levels: list[Tensor] = self.fpn(self.backbone(batch))
        return levels

    # -------------------------------------------------------------------------------------------------- training

    def losses(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Targets],
        sizes: Sequence[tuple[int, int]],
        proposals: Proposals,
        rng: torch.Generator,
    ) -> LossTable:
        """Per-image losses of images with sizes (H, W).

        With ground-truth proposals the proposal network does not run, and every class counts in the classification
        loss.
        """
        truth = padded(targets, sizes, features[0].dtype if features[0].dtype == torch.float64 else torch.float32)
        if proposals is Proposals.GROUND_TRUTH:
            return LossTable(self._ground_truth_losses(features, targets, truth, rng))
        output = self.proposal_network(features)
        boxes = [found for found, _ in self.proposal_network.propose(output, training=True)]
        return LossTable(
            self.proposal_network.losses(output, truth) | self.roi_losses(features, boxes, targets, truth, rng)
        )

    def roi_losses(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        truth: Truth,
        rng: torch.Generator,
    ) -> dict[str, Loss]:
        """Losses of cascade and mask head on each image's proposals (k, 4); adds the ground truth to them."""
        candidates = [
            torch.cat([found, boxes[:count]])
            for found, boxes, count in zip(proposals, truth.boxes, truth.counts, strict=True)
        ]
        together = pad_sequence(candidates, batch_first=True)
        n, most = together.shape[:2]
        lengths = on_device(torch.tensor([len(c) for c in candidates]), together.device)
        present = torch.arange(most, device=together.device) < lengths[:, None]
        every = Rois.of(together.flatten(0, 1), present.flatten(), [most] * n)
        matches = Matches.of(every, truth, self.config.stage_ious[0])

        index, kept = self.sampler(matches.foreground.view(n, most), present, rng)
        flat = (index + most * torch.arange(n, device=index.device)[:, None]).flatten()
        rois = Rois.of(every.boxes[flat], kept.flatten(), [index.shape[1]] * n)
        matches = Matches(matches.instance[flat], matches.foreground[flat] & rois.valid)
        return self._region_losses(features, rois, matches, targets, truth, rng, self.federated)

    def shared_counts(self, targets: Sequence[Targets], sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The normalisers that ranks share, a scalar each by name of the loss, without a forward pass."""
        shapes = self.fpn.shapes(_batch_size(sizes))
        return self.proposal_network.normalisers(padded(targets, sizes, torch.float32), shapes)

    def confidence(
        self, features: Sequence[Tensor], targets: Sequence[Targets], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """(n, G) probability of each instance's own label, with its own box as the proposal: the mean over stages."""
        truth = padded(targets, sizes, features[0].dtype if features[0].dtype == torch.float64 else torch.float32)
        n, most = truth.present.shape
        rois = Rois.of(truth.boxes.flatten(0, 1), truth.present.flatten(), [most] * n)
        _, classes = self.cascade.predict(features[: len(self.config.strides)], rois, truth.sizes)
        own = classes.gather(1, truth.labels.flatten()[:, None]).view(n, most)
        return own.masked_fill(~truth.present, 0.0)

    def _ground_truth_losses(
        self, features: Sequence[Tensor], targets: Sequence[Targets], truth: Truth, rng: torch.Generator
    ) -> dict[str, Loss]:
        boxes = torch.cat([b[:count] for b, count in zip(truth.boxes, truth.counts, strict=True)])
        rois = Rois.of(boxes, torch.ones_like(boxes[:, 0], dtype=torch.bool), truth.counts)
        each = torch.cat([torch.arange(count, device=boxes.device) for count in truth.counts])
        return self._region_losses(features, rois, Matches(each, rois.valid), targets, truth, rng, None)

    def _region_losses(
        self,
        features: Sequence[Tensor],
        rois: Rois,
        matches: Matches,
        targets: Sequence[Targets],
        truth: Truth,
        rng: torch.Generator,
        federated: FederatedDraw | None,
    ) -> dict[str, Loss]:
        features = features[: len(self.config.strides)]
        table = self.cascade.losses(features, rois, matches, truth, federated, rng)
        masks = [target.masks for target in targets]
        return table | self.mask_head.losses(features, rois, matches, truth, masks)

    # ------------------------------------------------------------------------------------------------ prediction

    @torch.no_grad()
    def detect(self, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of images with sizes (H, W)."""
        proposals = self.proposal_network.propose(self.proposal_network(features), training=False)
        features = features[: len(self.config.strides)]
        boxes = torch.cat([found for found, _ in proposals])
        lengths = [len(found) for found, _ in proposals]
        rois = Rois.of(boxes, torch.ones_like(boxes[:, 0], dtype=torch.bool), lengths)
        limits = torch.tensor(sizes, device=boxes.device, dtype=boxes.dtype)
        boxes, classes = self.cascade.predict(features, rois, limits)
        scores = (classes[:, : self.evaluated] * torch.cat([score for _, score in proposals])[:, None]).sqrt()
        return [
            self._detections(index, features, box.clip(b, limit), s)
            for index, (b, s, limit) in enumerate(zip(boxes.split(lengths), scores.split(lengths), limits, strict=True))
        ]

    def _detections(self, image: int, features: Sequence[Tensor], boxes: Tensor, scores: Tensor) -> Detections:
        """What is left of one image's boxes (R, 4) and scores (R, C) after threshold and suppression, with masks."""
        finite = boxes.isfinite().all(1) & scores.isfinite().all(1)
        region, labels = ((scores > self.config.score_threshold) & finite[:, None]).nonzero(as_tuple=True)
        scores, boxes = scores[region, labels], boxes[region]
        keep = best_after_suppression(boxes, scores, labels, self.config.nms, self.config.detections)
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        masks = self.mask_head.logits(features, boxes, torch.full_like(labels, image)).sigmoid()
        return Detections(boxes, scores, labels, masks)


def _batch_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width of the batch that holds images of these sizes."""
    height, width = (max(each) + -max(each) % SIZE_MULTIPLE for each in zip(*sizes, strict=True))
    return height, width


def best_after_suppression(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, count: int) -> Tensor:
    """Indices of the `count` best boxes that survive non-maximum suppression within their class, best first.

    What survives depends on better boxes alone, so the best few thousand candidates nearly always settle it; an early
    detector has 300 000.
    """
    taken = FIRST_CANDIDATES
    while taken < len(scores):
        top = scores.topk(taken).indices.sort().values
        keep = top[batched_nms(boxes[top], scores[top], labels[top], threshold)][:count]
        if len(keep) == count and bool(scores[keep[-1]] > scores[top].min()):
            return keep
        taken *= 4
    kept: Tensor = batched_nms(boxes, scores, labels, threshold)[:count]
    return kept
