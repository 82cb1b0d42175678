"""detectron2's own losses, taken apart by image and by what was pasted while its model runs.

The loss functions of its heads are called on one image's regions at a time instead of on the batch's, pasted ones
and others apart. Each of them is a sum over regions divided by their number, so the parts add up to what it would have
given for the batch. Losses of parts that are not known here are shared out evenly among the images.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, ROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, mask_rcnn_loss
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from methods.contract import Loss, LossKind, LossTable

Rows = tuple[Tensor, Tensor]  # of one image's regions: the pasted ones, the others


def attributes(model: nn.Module) -> bool:
    """Whether the part that comes from pasted instances can be told: a model with box predictors known here."""
    heads = getattr(model, "roi_heads", None)
    return isinstance(heads, ROIHeads) and bool(predictors(model))


def predictors(model: nn.Module) -> list[FastRCNNOutputLayers]:
    """The box predictors, stage by stage."""
    found = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    stages = list(found) if isinstance(found, nn.ModuleList) else [found]
    return [stage for stage in stages if isinstance(stage, FastRCNNOutputLayers)]


def loss_table(model: nn.Module, inputs: list[dict[str, Any]]) -> LossTable:
    """Losses of a model in training mode, on inputs in detectron2's format whose instances carry `gt_pasted`."""
    recorder = LossRecorder(len(inputs))
    with EventStorage(0), ExitStack() as stack:
        _take_apart(stack, model, recorder)
        returned = model(inputs)
    return recorder.table(returned)


def ground_truth_loss_table(model: nn.Module, inputs: list[dict[str, Any]]) -> LossTable:
    """The same of the heads alone, on the ground truth's boxes as proposals, every class counted.

    The proposal network is not run and nothing is sampled.
    """
    recorder = LossRecorder(len(inputs))
    with EventStorage(0), ExitStack() as stack:
        _take_apart(stack, model, recorder)
        _replace(stack, model.roi_heads, "label_and_sample_proposals", lambda proposals, targets: proposals)
        for predictor in predictors(model):
            if predictor.use_fed_loss:
                _replace(stack, predictor, "use_fed_loss", False)
        images = model.preprocess_image(inputs)  # type: ignore[operator]
        features = model.backbone(images.tensor)  # type: ignore[operator]
        truth = [each["instances"].to(images.tensor.device) for each in inputs]
        _, returned = model.roi_heads(images, features, [_as_proposals(each) for each in truth], truth)  # type: ignore[operator]
    return recorder.table(returned)


def _as_proposals(truth: Instances) -> Instances:
    proposals = Instances(truth.image_size, **truth.get_fields())
    proposals.proposal_boxes = truth.gt_boxes
    proposals.objectness_logits = torch.zeros(len(truth), device=truth.gt_boxes.device)
    return proposals


# ------------------------------------------------------------------------------------------------ what is recorded


class LossRecorder:
    """Per-image sums of the losses of one pass over `images` images."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.losses: dict[str, Loss] = {}

    def add(self, name: str, sums: Tensor, counts: Tensor, pasted: Tensor | None, shared: bool = False) -> Tensor:
        """Gives what detectron2 would have: the sum over the count."""
        self.losses[name] = Loss(_kind(name), sums, counts.to(sums), pasted, across_ranks=shared)
        return sums.sum() / self.losses[name].count.sum().clamp(min=1)

    def table(self, returned: dict[str, Tensor]) -> LossTable:
        """Losses in the order in which the model returned them."""
        ones = torch.ones(self.images)
        for name, value in returned.items():
            if name not in self.losses:
                self.losses[name] = Loss(_kind(name), value.expand(self.images), ones.to(value))
        return LossTable({name: self.losses[name] for name in returned})


def _kind(name: str) -> LossKind:
    stems = {"loss_cls": LossKind.CLASSIFICATION, "loss_box": LossKind.BOX, "loss_mask": LossKind.MASK}
    return next((kind for stem, kind in stems.items() if name.startswith(stem)), LossKind.PROPOSAL)


def _take_apart(stack: ExitStack, model: nn.Module, recorder: LossRecorder) -> None:
    """Puts the splitting functions in the places of the model's own until the stack is left."""
    generator, heads = getattr(model, "proposal_generator", None), getattr(model, "roi_heads", None)
    if isinstance(generator, RPN):
        _replace(stack, generator, "losses", _rpn_losses(generator, recorder))
    elif hasattr(generator, "no_reduce") and hasattr(generator, "compute_grids"):
        _centernet_losses(stack, generator, recorder)
    if not attributes(model):
        return
    several = isinstance(heads.box_predictor, nn.ModuleList)  # type: ignore[union-attr]
    for i, predictor in enumerate(predictors(model)):
        _replace(stack, predictor, "losses", _box_losses(predictor, f"_stage{i}" if several else "", recorder))
    if isinstance(heads, CascadeROIHeads):
        _replace(stack, heads, "_match_and_label_boxes", _with_pasted(heads))
    mask_head = getattr(heads, "mask_head", None)
    if isinstance(mask_head, BaseMaskRCNNHead) and type(mask_head).forward is BaseMaskRCNNHead.forward:
        _replace(stack, mask_head, "forward", _mask_losses(mask_head, recorder))


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """On this instance alone, and only until the stack is left: copies of the model never see it."""
    before = vars(owner).get(name)
    if name in vars(owner):
        stack.callback(setattr, owner, name, before)
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)


# ------------------------------------------------------------------------------------------------ proposal networks


def _rpn_losses(rpn: RPN, recorder: LossRecorder) -> Callable[..., dict[str, Tensor]]:
    original = rpn.losses

    def losses(
        anchors: Any, logits: list[Tensor], labels: list[Tensor], deltas: list[Tensor], boxes: list[Tensor]
    ) -> dict[str, Tensor]:
        each = []
        for i in range(len(labels)):
            one = slice(i, i + 1)
            each.append(original(anchors, [x[one] for x in logits], labels[one], [x[one] for x in deltas], boxes[one]))
        count = torch.full((len(labels),), float(rpn.batch_size_per_image))
        return {
            name: recorder.add(name, rpn.batch_size_per_image * torch.stack([e[name] for e in each]), count, None)
            for name in each[0]
        }

    return losses


def _centernet_losses(stack: ExitStack, centernet: Any, recorder: LossRecorder) -> None:
    """CenterNet's normalisers are means over ranks: they are left to the training step, so that no collective is
    called in here. Its locations lie level by level, image by image within one."""
    original, grids_of = centernet.losses, centernet.compute_grids
    lengths: list[int] = []

    def compute_grids(features: Any) -> Any:
        grids = grids_of(features)
        lengths[:] = [len(grid) for grid in grids]
        return grids

    def losses(
        positives: Tensor, labels: Any, targets: Tensor, heatmaps: Tensor, logits: Any, boxes: Tensor, agnostic: Any
    ) -> dict[str, Tensor]:
        images, levels = torch.arange(recorder.images), torch.arange(sum(lengths)).split(lengths)
        image = torch.cat([images.repeat_interleave(length) for length in lengths]).to(boxes.device)
        place = torch.cat([level.repeat(len(images)) for level in levels]).to(boxes.device)
        each, counts, weights = [], [], []
        for i in range(len(images)):
            rows, own = (image == i).nonzero().flatten(), image[positives] == i
            rest = [None if x is None else x[rows] for x in (logits, boxes, agnostic)]
            classes = None if labels is None else labels[own]
            each.append(original(place[positives[own]], classes, targets[rows], heatmaps[rows], *rest))
            located = targets[rows].max(1).values >= 0
            weight = located.float() if centernet.not_norm_reg else heatmaps[rows].max(1).values[located]
            counts.append(own.sum())
            weights.append(weight.sum())
        both = {"loc": torch.stack(weights).float(), "other": torch.stack(counts).float()}
        found = {}
        for name in each[0]:
            count = both["loc" if name.endswith("_loc") else "other"]
            sums = torch.stack([e[name] for e in each]) * count.clamp(min=1)
            found[name] = recorder.add(name, sums, count, None, shared=True)
        return found

    _replace(stack, centernet, "no_reduce", True)
    _replace(stack, centernet, "compute_grids", compute_grids)
    _replace(stack, centernet, "losses", losses)


# ------------------------------------------------------------------------------------------------ box and mask heads


def _rows(regions: Instances, background: int) -> Rows:
    """Indices of the foreground regions that were matched to a pasted instance, and of all others."""
    classes = regions.gt_classes
    if not regions.has("gt_pasted"):  # an image without ground truth
        pasted = torch.zeros_like(classes, dtype=torch.bool)
    else:
        pasted = regions.gt_pasted & (classes >= 0) & (classes < background)
    return pasted.nonzero().flatten(), (~pasted).nonzero().flatten()


def _box_losses(
    predictor: FastRCNNOutputLayers, suffix: str, recorder: LossRecorder
) -> Callable[..., dict[str, Tensor]]:
    original = predictor.losses

    def losses(predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]) -> dict[str, Tensor]:
        parts: list[list[dict[str, Tensor]]] = []  # by image: of the pasted regions, of the others
        start = 0
        with _one_draw(predictor, torch.cat([p.gt_classes for p in proposals])):
            for regions in proposals:
                parts.append([])
                for rows in _rows(regions, predictor.num_classes):
                    chunk = tuple(x[start + rows] for x in predictions)
                    found = original(chunk, [_fields(regions, rows, "proposal_boxes", "gt_boxes", "gt_classes")])
                    parts[-1].append({name: value * len(rows) for name, value in found.items()})
                start += len(regions)
        counts = torch.tensor([len(regions) for regions in proposals])
        return {name: recorder.add(name + suffix, *_summed(parts, name, counts)) for name in parts[0][0]}

    return losses


def _mask_losses(head: BaseMaskRCNNHead, recorder: LossRecorder) -> Callable[..., dict[str, Tensor]]:
    def forward(features: Tensor, instances: Sequence[Instances]) -> dict[str, Tensor]:
        logits = head.layers(features)
        parts: list[list[dict[str, Tensor]]] = []
        start = 0
        for regions in instances:
            parts.append([])
            for rows in _rows(regions, sys.maxsize):
                chunk = [_fields(regions, rows, "proposal_boxes", "gt_classes", "gt_masks")] if len(rows) else []
                value = mask_rcnn_loss(logits[start + rows], chunk) * head.loss_weight
                parts[-1].append({"loss_mask": value * len(rows)})
            start += len(regions)
        counts = torch.tensor([len(regions) for regions in instances])
        return {"loss_mask": recorder.add("loss_mask", *_summed(parts, "loss_mask", counts))}

    return forward


def _fields(regions: Instances, rows: Tensor, *names: str) -> Instances:
    return Instances(regions.image_size, **{name: regions.get(name)[rows] for name in names if regions.has(name)})


def _summed(parts: list[list[dict[str, Tensor]]], name: str, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pasted, others = (torch.stack([image[i][name] for image in parts]) for i in (0, 1))
    return pasted + others, counts, pasted


def _with_pasted(heads: CascadeROIHeads) -> Callable[..., list[Instances]]:
    """A cascade's later stages copy classes and boxes of the matched instances alone; this adds `gt_pasted`."""
    original = heads._match_and_label_boxes

    def match_and_label(proposals: list[Instances], stage: int, targets: list[Instances]) -> list[Instances]:
        labelled: list[Instances] = original(proposals, stage, targets)
        for regions, truth in zip(labelled, targets, strict=True):
            if len(truth):
                iou = pairwise_iou(truth.gt_boxes, regions.proposal_boxes)
                regions.gt_pasted = truth.gt_pasted[heads.proposal_matchers[stage](iou)[0]]
        return labelled

    return match_and_label


@contextmanager
def _one_draw(predictor: FastRCNNOutputLayers, classes: Tensor) -> Iterator[None]:
    """Federated classes are drawn once, from what appears in the whole batch; every part of the loss counts these.

    The drawing function is a method of detectron2's predictor and a function of CenterNet2's module.
    """
    if not predictor.use_fed_loss:
        yield
        return
    module = sys.modules[inspect.getmodule(type(predictor)).__name__]  # type: ignore[union-attr]
    owner: Any = module if hasattr(module, "get_fed_loss_inds") else predictor
    name = "get_fed_loss_inds" if owner is module else "get_fed_loss_classes"
    draw = getattr(owner, name)
    drawn: list[Tensor] = []

    def once(_: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if not drawn:
            drawn.append(draw(classes, *arguments, **named))
        return drawn[0]

    with ExitStack() as stack:
        _replace(stack, owner, name, once)
        yield
