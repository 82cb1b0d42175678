"""CenterNet as a class-agnostic proposal network (1904.07850, 2103.07461): head, losses, proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from harness.config import DetectorConfig
from harness.detector.boxes import full_precision
from harness.detector.centernet_targets import Grid, assign
from harness.detector.ground_truth import Truth
from methods.contract import Attribution, Loss, LossKind

HEATMAP_PRIOR = 0.01
ALPHA, BETA, GAMMA = 0.25, 4, 2  # focal loss: positives' share, discount around a centre, focus
POSITIVE_WEIGHT = NEGATIVE_WEIGHT = 0.5
IGNORED_ABOVE = 0.85  # negatives this confident are likely unlabelled objects
PROBABILITY_FLOOR = 1e-4
SMALLEST_SIDE = 0.01  # of a proposal, in pixels


@dataclass(frozen=True)
class HeadOutput:
    """heatmap (n, M) logits; distances (n, M, 4) to the left, top, right and bottom in strides; M locations."""

    heatmap: Tensor
    distances: Tensor
    grid: Grid


class Scale(nn.Module):
    """Multiplies by one learnt factor, which starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ProposalNetwork(nn.Module):
    """The head that all levels of a pyramid share, its losses and its proposals.

    Raises ValueError unless `config.size_ranges` has one entry for each stride.
    """

    def __init__(self, config: DetectorConfig, strides: Sequence[int]) -> None:
        super().__init__()
        if len(config.size_ranges) != len(strides):
            raise ValueError(f"detector.size_ranges has {len(config.size_ranges)} entries for {len(strides)} levels")
        self.config, self.strides = config, list(strides)
        width = config.channels
        tower: list[nn.Module] = []
        for _ in range(config.head_convs):
            tower += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(config.head_groups, width), nn.ReLU()]
        self.bbox_tower = nn.Sequential(*tower)
        self.bbox_pred = nn.Conv2d(width, 4, 3, padding=1)
        self.agn_hm = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.bbox_pred.bias, 8.0)  # type: ignore[arg-type]
        nn.init.constant_(self.agn_hm.bias, -math.log((1 - HEATMAP_PRIOR) / HEATMAP_PRIOR))  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Runs the head on the levels (n, C, H, W) of a pyramid, finest first."""
        heatmaps, distances, shapes = [], [], []
        for level, scale in zip(features, self.scales, strict=True):
            hidden = self.bbox_tower(level)
            heatmaps.append(full_precision(self.agn_hm(hidden)).flatten(1))
            reach = F.relu(full_precision(scale(self.bbox_pred(hidden))))
            distances.append(reach.flatten(2).transpose(1, 2))
            shapes.append((level.shape[2], level.shape[3]))
        heatmap = torch.cat(heatmaps, 1)
        grid = Grid.of(shapes, self.strides, self.config.size_ranges, heatmap.dtype, heatmap.device)
        return HeadOutput(heatmap, torch.cat(distances, 1), grid)

    # -------------------------------------------------------------------------------------------------- training

    def losses(self, output: HeadOutput, truth: Truth) -> dict[str, Loss]:
        """Location loss and the heatmap's two focal losses; their normalisers are means over ranks."""
        target = assign(truth, output.grid, self.config.heatmap_overlap, self.config.heatmap_min_radius)
        probability = output.heatmap.sigmoid().clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)

        at_centres = probability.gather(1, target.positives)
        positive = torch.log(at_centres) * (1 - at_centres) ** GAMMA * target.is_positive
        negative = torch.log(1 - probability) * probability**GAMMA * (1 - target.heatmap) ** BETA
        negative = negative * (probability < IGNORED_ABOVE)
        # A location without a target gets harmless numbers: a masked infinity would still give NaN gradients.
        goal = torch.where(target.regressed[..., None], target.distances, 1.0)
        location = torch.where(target.regressed, giou_loss(output.distances, goal), 0.0)

        positives = target.is_positive.sum(1).to(probability.dtype)

        regressed = target.regressed.sum(1).to(probability.dtype)
        of_location = _attribution(truth, location, target.regressed, target.instance)
        slots = torch.arange(truth.present.shape[1], device=positive.device).repeat_interleave(len(self.strides))
        weighted = -POSITIVE_WEIGHT * ALPHA * positive
        of_centre = _attribution(truth, weighted, target.is_positive, slots)
        # The heatmap discounts negatives around a centre whether or not its instance counts, so no negative belongs to
        # an instance. But the instance's centre counts in their normaliser.
        of_background = replace(of_centre, terms=torch.zeros_like(of_centre.terms))
        background = -NEGATIVE_WEIGHT * (1 - ALPHA) * negative.sum(1)
        proposal = partial(Loss, LossKind.PROPOSAL, across_ranks=True)
        return {
            "loss_centernet_loc": proposal(location.sum(1), regressed, attribution=of_location),
            "loss_centernet_agn_pos": proposal(weighted.sum(1), positives, attribution=of_centre),
            "loss_centernet_agn_neg": proposal(background, positives, attribution=of_background),
        }

    def normalisers(self, truth: Truth, shapes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The summed counts of `losses` on levels of these shapes (H, W), which follow from the ground truth alone."""
        grid = Grid.of(shapes, self.strides, self.config.size_ranges, truth.boxes.dtype, truth.boxes.device)
        target = assign(truth, grid, self.config.heatmap_overlap, self.config.heatmap_min_radius)
        positives, regressed = (each.sum().to(truth.boxes.dtype) for each in (target.is_positive, target.regressed))
        return {
            "loss_centernet_loc": regressed,
            "loss_centernet_agn_pos": positives,
            "loss_centernet_agn_neg": positives,
        }

    # ------------------------------------------------------------------------------------------------- proposals

    @torch.no_grad()
    def propose(self, output: HeadOutput, *, training: bool) -> list[tuple[Tensor, Tensor]]:
        """Per image the boxes (k, 4), which may reach beyond the image, and scores (k,), best first."""
        config = self.config
        pre, post = (
            (config.pre_nms_train, config.post_nms_train) if training else (config.pre_nms_test, config.post_nms_test)
        )
        scores = output.heatmap.sigmoid()
        boxes = output.grid.boxes(output.distances)
        kept_scores, kept_boxes = [], []
        for level_scores, level_boxes in zip(
            scores.split(output.grid.lengths, 1), boxes.split(output.grid.lengths, 1), strict=True
        ):
            if level_scores.shape[1] > pre:
                level_scores, index = level_scores.topk(pre, 1, sorted=False)
                level_boxes = level_boxes.gather(1, index[..., None].expand(-1, -1, 4))
            kept_scores.append(level_scores)
            kept_boxes.append(level_boxes)
        scores, boxes = torch.cat(kept_scores, 1), torch.cat(kept_boxes, 1)
        return [self._suppressed(b, s, post) for b, s in zip(boxes, scores, strict=True)]

    def _suppressed(self, boxes: Tensor, scores: Tensor, post: int) -> tuple[Tensor, Tensor]:
        candidate = scores > self.config.proposal_threshold
        boxes, scores = boxes[candidate], scores[candidate].sqrt()
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + SMALLEST_SIDE)], 1)
        keep = batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.long), self.config.proposal_nms)
        if len(keep) > post:  # ties with the last one stay, like the published code
            best = scores[keep]
            keep = keep[best >= best[post - 1]]
        return boxes[keep], scores[keep]


def _attribution(truth: Truth, terms: Tensor, counted: Tensor, instance: Tensor) -> Attribution:
    """Terms (n, T), one in the normaliser each, of these instances (n, T) or (T,) where `counted` (n, T) holds."""
    n, most = truth.present.shape
    place = torch.where(counted, instance + most * torch.arange(n, device=terms.device)[:, None], -1)
    return Attribution(terms.flatten(), torch.ones_like(terms).flatten(), place.flatten(), (n, most))


def giou_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of boxes given as distances (..., 4) from a common point; the IoU term has 1 added above and below."""

    def sides(distances: Tensor) -> Tensor:
        return distances[..., :2] + distances[..., 2:]

    intersection = sides(torch.minimum(prediction, target)).prod(-1)
    hull = sides(torch.maximum(prediction, target)).prod(-1)
    union = sides(target).prod(-1) + sides(prediction).prod(-1) - intersection
    return 1 - ((intersection + 1) / (union + 1) - (hull - union) / hull)
