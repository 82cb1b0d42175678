"""The box cascade (1712.00726, 2103.07461): three heads, each on the boxes of the one before; federated loss."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import DetectorConfig
from harness.detector import boxes as box
from harness.detector.ground_truth import Truth
from harness.detector.roi_align import pool
from harness.detector.sampling import FederatedDraw
from methods.contract import Attribution, LastLayer, Loss, LossKind

CLASS_PRIOR = 0.01
REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the first stage; stage k has k + 1 times these


@dataclass(frozen=True)
class Rois:
    """R regions of n images, image after image.

    boxes (R, 4) pixels; image (R,) int64; valid (R,) bool, False for slots that hold nothing and count in no loss;
    lengths: regions of each image.
    """

    boxes: Tensor
    image: Tensor
    valid: Tensor
    lengths: list[int]

    @classmethod
    def of(cls, boxes: Tensor, valid: Tensor, lengths: list[int]) -> Rois:
        """Regions from boxes (R, 4), image after image; `lengths` says how many belong to each image."""
        image = torch.cat([torch.full((k,), i, device=boxes.device) for i, k in enumerate(lengths)])
        return cls(torch.where(valid[:, None], boxes, 0.0), image, valid, lengths)

    def moved(self, boxes: Tensor, sizes: Tensor, *, drop_empty: bool) -> Rois:
        """The same regions with new boxes (R, 4), clipped to their images of sizes (n, 2)."""
        boxes = box.clip(boxes, sizes[self.image])
        valid = self.valid & box.nonempty(boxes) if drop_empty else self.valid
        return Rois(torch.where(valid[:, None], boxes, 0.0), self.image, valid, self.lengths)

    def per_image(self, values: Tensor) -> Tensor:
        """(n,) sums of values (R,) that are zero in invalid slots."""
        index = torch.arange(len(self.lengths), device=values.device)
        return torch.where(self.image == index[:, None], values, 0.0).sum(1)


@dataclass(frozen=True)
class Matches:
    """What regions were matched to: instance (R,) int64, its index in the image; foreground (R,) bool."""

    instance: Tensor
    foreground: Tensor

    @classmethod
    def of(cls, rois: Rois, truth: Truth, threshold: float) -> Matches:
        """The instance of highest IoU, foreground where that reaches the threshold."""
        overlap = box.iou(rois.boxes[:, None], truth.boxes[rois.image])
        best, instance = overlap.masked_fill(~truth.present[rois.image], -1).max(1)
        return cls(instance, (best >= threshold) & rois.valid)

    def take(self, rois: Rois, values: Tensor) -> Tensor:
        """(R, ...) the matched instances' entries of values (n, G, ...)."""
        return values[rois.image, self.instance]

    def pasted(self, rois: Rois, truth: Truth) -> Tensor:
        """(R,) bool, the foreground regions that were matched to a pasted instance."""
        return self.take(rois, truth.pasted) & self.foreground

    def attribution(self, rois: Rois, truth: Truth, terms: Tensor, units: float) -> Attribution:
        """Assigns loss terms (R,) of foreground regions to the matched instances.

        Each region adds `units` to the normaliser.
        """
        n, most = truth.present.shape
        place = torch.where(self.foreground, rois.image * most + self.instance, -1)
        return Attribution(terms, torch.full_like(terms, units), place, (n, most))


@dataclass(frozen=True)
class StageOutput:
    """inputs (R, F) of the last layers, without gradient; logits (R, C + 1), the last column unused; deltas (R, 4).

    apart: indices (k,) of regions whose logits (k, C + 1) were computed separately; both None if none were.
    """

    rois: Rois
    inputs: Tensor
    logits: Tensor
    deltas: Tensor
    apart: Tensor | None = None
    logits_apart: Tensor | None = None


class BoxPredictor(nn.Module):
    """A stage's last layers: features (R, F) to logits (R, C + 1) and deltas (R, 4), both in full precision."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes + 1)  # with a background column, as in published weights
        self.bbox_pred = nn.Linear(width, 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.constant_(self.cls_score.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return box.full_precision(self.cls_score(x)), box.full_precision(self.bbox_pred(x))


class Cascade(nn.Module):
    """Class scores and boxes of regions, refined from stage to stage."""

    regression_weights: Tensor

    def __init__(self, config: DetectorConfig, strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.config, self.strides, self.num_classes = config, list(strides), num_classes
        self.register_buffer("regression_weights", torch.tensor(REGRESSION_WEIGHTS), persistent=False)
        self.box_head = nn.ModuleList(_fully_connected(config) for _ in config.stage_ious)
        self.box_predictor = nn.ModuleList(BoxPredictor(config.fc_width, num_classes) for _ in config.stage_ious)

    def run_stage(
        self, stage: int, features: Sequence[Tensor], rois: Rois, pasted: Tensor | None = None
    ) -> StageOutput:
        """Runs one stage on all regions, computing those of `pasted` (R,) bool separately, with the same results.

        The gradient of the pasted instances' loss then flows through their few regions only.
        """
        # On a GPU the host would have to wait to learn how many they are, which costs more than it saves.
        if pasted is None or pasted.is_cuda or not pasted.any():
            return StageOutput(rois, *self._head(stage, features, rois.boxes, rois.image))
        rest, apart = (~pasted).nonzero().squeeze(1), pasted.nonzero().squeeze(1)
        of_rest = self._head(stage, features, rois.boxes[rest], rois.image[rest])
        of_apart = self._head(stage, features, rois.boxes[apart], rois.image[apart])
        back = torch.cat([rest, apart]).argsort()
        inputs, logits, deltas = (torch.cat(parts)[back] for parts in zip(of_rest, of_apart, strict=True))
        return StageOutput(rois, inputs, logits, deltas, apart, of_apart[1])

    def _head(
        self, stage: int, features: Sequence[Tensor], boxes: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the last layers, logits and deltas of regions."""
        config = self.config
        pooled = pool(
            features, self.strides, boxes, image, config.box_resolution, config.canonical_size, config.roi_align
        )
        if pooled.requires_grad:  # heads keep their gradient; the features that they share get its mean over the stages
            pooled.register_hook(lambda gradient: gradient / len(self.box_head))
        inputs = self.box_head[stage](pooled)
        return inputs.detach(), *self.box_predictor[stage](inputs)

    def refined(self, stage: int, output: StageOutput) -> Tensor:
        """(R, 4) the boxes that a stage predicts, not clipped to the image, without gradient."""
        return box.decode(output.rois.boxes, output.deltas.detach(), self.regression_weights * (stage + 1))

    # -------------------------------------------------------------------------------------------------- training

    def losses(
        self,
        features: Sequence[Tensor],
        rois: Rois,
        matches: Matches,
        truth: Truth,
        federated: FederatedDraw | None,
        rng: torch.Generator,
    ) -> dict[str, Loss]:
        """Classification and box losses of every stage; without `federated` every class counts."""
        table: dict[str, Loss] = {}
        thresholds = self.config.stage_ious
        for stage in range(len(thresholds)):
            output = self.run_stage(stage, features, rois, matches.pasted(rois, truth))
            counted = self._counted(stage, rois, matches, truth, federated, rng)
            table[f"loss_cls_stage{stage}"] = self._classification(output, matches, truth, counted)
            table[f"loss_box_reg_stage{stage}"] = self._regression(stage, output, matches, truth)
            if stage + 1 < len(thresholds):
                rois = rois.moved(self.refined(stage, output), truth.sizes, drop_empty=True)
                matches = Matches.of(rois, truth, thresholds[stage + 1])
        return table

    def _counted(
        self,
        stage: int,
        rois: Rois,
        matches: Matches,
        truth: Truth,
        federated: FederatedDraw | None,
        rng: torch.Generator,
    ) -> Tensor | None:
        """(C,) bool, the classes that the stage's loss counts; None for all."""
        if federated is None:
            return None
        background, nothing = self.num_classes, self.num_classes + 1
        labels = matches.take(rois, truth.labels).masked_fill(~matches.foreground, background)
        labels = labels.masked_fill(~rois.valid, nothing)
        appeared = torch.zeros(nothing + 1, dtype=torch.bool, device=labels.device).scatter(0, labels, True)
        return federated(stage, appeared[:nothing], rng)

    def _classification(self, output: StageOutput, matches: Matches, truth: Truth, counted: Tensor | None) -> Loss:
        rois = output.rois
        labels = matches.take(rois, truth.labels).clamp(max=self.num_classes - 1)
        each = self._cross_entropy(output.logits, labels, matches.foreground, counted)
        each = torch.where(rois.valid, each, 0.0)
        if output.apart is None or output.logits_apart is None:
            of_pasted = each * matches.pasted(rois, truth)
        else:
            own, foreground = labels[output.apart], matches.foreground[output.apart]
            alone = self._cross_entropy(output.logits_apart, own, foreground, counted)
            of_pasted = torch.zeros_like(each).index_copy(0, output.apart, alone)
        every = torch.ones_like(labels[:1], dtype=torch.bool) if counted is None else counted
        return Loss(
            LossKind.CLASSIFICATION,
            sum=rois.per_image(each),
            count=rois.per_image(rois.valid.to(each.dtype)),
            pasted=rois.per_image(of_pasted),
            attribution=matches.attribution(rois, truth, each, 1),
            last_layer=LastLayer(
                inputs=output.inputs,
                logits=output.logits.detach()[:, : self.num_classes],
                labels=labels.masked_fill(~matches.foreground, self.num_classes),
                counted=rois.valid[:, None] & every,
                image=rois.image,
            ),
        )

    def _cross_entropy(self, logits: Tensor, labels: Tensor, foreground: Tensor, counted: Tensor | None) -> Tensor:
        """(R,) sigmoid cross-entropy: softplus of every counted logit, less the matched class's logit."""
        logits = logits[:, : self.num_classes]
        each = F.softplus(logits)
        each = each.sum(1) if counted is None else (each * counted).sum(1)
        return each - logits.gather(1, labels[:, None]).squeeze(1) * foreground

    def _regression(self, stage: int, output: StageOutput, matches: Matches, truth: Truth) -> Loss:
        rois, foreground = output.rois, matches.foreground
        unit = torch.cat([torch.zeros_like(rois.boxes[:, :2]), torch.ones_like(rois.boxes[:, 2:])], 1)
        source = torch.where(foreground[:, None], rois.boxes, unit)  # other regions may be empty
        target = torch.where(foreground[:, None], matches.take(rois, truth.boxes), unit)
        goal = box.encode(source, target, self.regression_weights * (stage + 1))
        each = torch.where(foreground, (output.deltas - goal).abs().sum(1), 0.0)
        return Loss(
            LossKind.BOX,
            sum=rois.per_image(each),
            count=4 * rois.per_image(foreground.to(each.dtype)),  # a mean over coordinates, like the published code
            pasted=rois.per_image(each * matches.pasted(rois, truth)),
            attribution=matches.attribution(rois, truth, each, 4),
        )

    # ------------------------------------------------------------------------------------------------ prediction

    def predict(self, features: Sequence[Tensor], rois: Rois, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (R, 4), not clipped to the image, and class probabilities (R, C), the mean over the stages."""
        total: Tensor | None = None
        stages = len(self.box_head)
        for stage in range(stages):
            output = self.run_stage(stage, features, rois)
            probability = output.logits[:, : self.num_classes].sigmoid()
            total = probability if total is None else total + probability
            refined = self.refined(stage, output)
            if stage + 1 < stages:
                rois = rois.moved(refined, sizes, drop_empty=False)
        assert total is not None
        return refined, total / stages


def _fully_connected(config: DetectorConfig) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = config.channels * config.box_resolution**2
    for index in range(config.fc_layers):
        layer = nn.Linear(inputs if index == 0 else config.fc_width, config.fc_width)
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
        layers[f"fc{index + 1}"] = layer
        layers[f"fc_relu{index + 1}"] = nn.ReLU()
    return nn.Sequential(layers)
