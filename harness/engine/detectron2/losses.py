"""detectron2's own losses, taken apart by image and by what was pasted while its model runs.

We call the loss functions of its heads on one image's regions at a time instead of on the whole batch, separately for
pasted and other regions; `attribution.py` does the same by instance. Each loss is a sum over regions divided by their
number, so the parts add up to the loss of the batch. Losses that this module does not know are divided evenly among the
images.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, ROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, mask_rcnn_loss
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from harness.engine.detectron2.attribution import Part, attributions, by_instance, owners, splits_masks
from methods.contract import Attribution, Loss, LossKind, LossTable

Rows = tuple[Tensor, Tensor]  # of one image's regions: the pasted ones, the others


def attributes(model: nn.Module) -> bool:
    """Whether the share of pasted instances can be computed: a model whose box predictors this module knows."""
    heads = getattr(model, "roi_heads", None)
    return isinstance(heads, ROIHeads) and bool(predictors(model))


def predictors(model: nn.Module) -> list[FastRCNNOutputLayers]:
    """The box predictors, stage by stage."""
    found = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    stages = list(found) if isinstance(found, nn.ModuleList) else [found]
    return [stage for stage in stages if isinstance(stage, FastRCNNOutputLayers)]


def loss_table(model: nn.Module, inputs: list[dict[str, Any]]) -> LossTable:
    """Losses of a model in training mode, on inputs in detectron2's format whose instances carry `gt_pasted` and
    `gt_instance`, their own index."""
    recorder = LossRecorder(inputs)
    with EventStorage(0), ExitStack() as stack:
        _take_apart(stack, model, recorder)
        returned = model(inputs)
    return recorder.table(returned)


def ground_truth_loss_table(model: nn.Module, inputs: list[dict[str, Any]]) -> LossTable:
    """The same of the heads alone, on the ground truth's boxes as proposals, every class counted.

    The proposal network is not run and nothing is sampled.
    """
    recorder = LossRecorder(inputs)
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
    """Per-image sums of the losses of one pass over inputs in detectron2's format. shape: (n, G) of its instances."""

    def __init__(self, inputs: Sequence[dict[str, Any]]) -> None:
        self.images = len(inputs)
        self.pasted: list[Tensor] = [each["instances"].gt_pasted for each in inputs]
        self.shape = len(inputs), max(1, *(len(pasted) for pasted in self.pasted))
        self.losses: dict[str, Loss] = {}

    def add(
        self,
        name: str,
        sums: Tensor,
        counts: Tensor,
        pasted: Tensor | None,
        shared: bool = False,
        attribution: Attribution | None = None,
    ) -> Tensor:
        """Gives what detectron2 would have: the sum over the count."""
        self.losses[name] = Loss(_kind(name), sums, counts.to(sums), pasted, shared, attribution)
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
        matched: list[Tensor] = []
        _replace(stack, generator, "anchor_matcher", _noting(generator.anchor_matcher, matched))
        _replace(stack, generator, "losses", _rpn_losses(generator, matched, recorder))
    elif hasattr(generator, "no_reduce") and hasattr(generator, "compute_grids"):
        _centernet_losses(stack, generator, recorder)
    if not attributes(model):
        return
    several = isinstance(heads.box_predictor, nn.ModuleList)  # type: ignore[union-attr]
    for i, predictor in enumerate(predictors(model)):
        _replace(stack, predictor, "losses", _box_losses(predictor, f"_stage{i}" if several else "", recorder))
    if isinstance(heads, CascadeROIHeads):
        _replace(stack, heads, "_match_and_label_boxes", _with_instances(heads))
    mask_head = getattr(heads, "mask_head", None)
    if splits_masks(mask_head):
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


def _noting(matcher: Any, matched: list[Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """An anchor matcher that notes which instance each anchor fits best, image by image."""

    def match(quality: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = matcher(quality)
        matched.append(found[0].to(quality.device))
        return found

    return match


def _rpn_losses(rpn: RPN, matched: list[Tensor], recorder: LossRecorder) -> Callable[..., dict[str, Tensor]]:
    original, regions = rpn.losses, rpn.batch_size_per_image

    def losses(
        anchors: Any, logits: list[Tensor], labels: list[Tensor], deltas: list[Tensor], boxes: list[Tensor]
    ) -> dict[str, Tensor]:
        def of(i: int, label: Tensor) -> dict[str, Tensor]:
            one = slice(i, i + 1)
            found = original(anchors, [x[one] for x in logits], [label], [x[one] for x in deltas], boxes[one])
            return {name: regions * value for name, value in found.items()}

        def shares() -> Iterator[Part]:
            for image, label in enumerate(labels):
                owner = torch.where(label == 1, matched[image], -1)
                for instance, _ in by_instance(owner):
                    # Its anchors alone; the normaliser is a number of the configuration, in which none of them counts.
                    yield image, instance, 0, of(image, torch.where(owner == instance, label, -1))

        each = [of(i, label) for i, label in enumerate(labels)]
        count = torch.full((len(labels),), float(regions))
        attributed = attributions(tuple(each[0]), recorder.shape, logits[0], shares)
        return {
            name: recorder.add(name, torch.stack([e[name] for e in each]), count, None, attribution=attributed[name])
            for name in each[0]
        }

    return losses


def _centernet_losses(stack: ExitStack, centernet: Any, recorder: LossRecorder) -> None:
    """CenterNet's normalisers are means over ranks: the training step computes them, so that nothing here calls a
    collective. Its locations are ordered by level, then by image."""
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


def _rows(owner: Tensor, recorder: LossRecorder, image: int) -> Rows:
    """Indices of the foreground regions that were matched to a pasted instance, and of all others."""
    known = torch.cat([recorder.pasted[image].to(owner.device), owner.new_zeros(1, dtype=torch.bool)])
    pasted = known[owner]  # the last one, of background
    return pasted.nonzero().flatten(), (~pasted).nonzero().flatten()


def _box_losses(
    predictor: FastRCNNOutputLayers, suffix: str, recorder: LossRecorder
) -> Callable[..., dict[str, Tensor]]:
    original = predictor.losses

    def losses(predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]) -> dict[str, Tensor]:
        owner = [owners(regions, predictor.num_classes) for regions in proposals]
        federated = _FederatedDraw(predictor, torch.cat([p.gt_classes for p in proposals]))
        starts = [0, *accumulate(len(regions) for regions in proposals)]

        def of(image: int, rows: Tensor) -> dict[str, Tensor]:
            chunk = tuple(x[starts[image] + rows] for x in predictions)
            regions = _fields(proposals[image], rows, "proposal_boxes", "gt_boxes", "gt_classes")
            with federated.once():
                return {name: value * len(rows) for name, value in original(chunk, [regions]).items()}

        parts = [
            [of(image, rows) for rows in _rows(own, recorder, image)] for image, own in enumerate(owner)
        ]  # by image: of the pasted regions, of the others
        counts = torch.tensor([len(regions) for regions in proposals])
        names = tuple(parts[0][0])
        attributed = attributions(names, recorder.shape, predictions[0], partial(_shares, owner, of))
        return {
            name: recorder.add(name + suffix, *_summed(parts, name, counts), attribution=attributed[name])
            for name in names
        }

    return losses


def _mask_losses(head: BaseMaskRCNNHead, recorder: LossRecorder) -> Callable[..., dict[str, Tensor]]:
    def forward(features: Tensor, instances: Sequence[Instances]) -> dict[str, Tensor]:
        logits = head.layers(features)
        owner = [owners(regions, sys.maxsize) for regions in instances]
        starts = [0, *accumulate(len(regions) for regions in instances)]

        def of(image: int, rows: Tensor) -> dict[str, Tensor]:
            regions = _fields(instances[image], rows, "proposal_boxes", "gt_classes", "gt_masks")
            value = mask_rcnn_loss(logits[starts[image] + rows], [regions] if len(rows) else []) * head.loss_weight
            return {"loss_mask": value * len(rows)}

        parts = [[of(image, rows) for rows in _rows(own, recorder, image)] for image, own in enumerate(owner)]
        counts = torch.tensor([len(regions) for regions in instances])
        attributed = attributions(("loss_mask",), recorder.shape, logits, partial(_shares, owner, of))
        return {
            "loss_mask": recorder.add(
                "loss_mask", *_summed(parts, "loss_mask", counts), attribution=attributed["loss_mask"]
            )
        }

    return forward


def _shares(owner: Sequence[Tensor], of: Callable[[int, Tensor], dict[str, Tensor]]) -> Iterator[Part]:
    for image, own in enumerate(owner):
        for instance, rows in by_instance(own):
            yield image, instance, len(rows), of(image, rows)


def _fields(regions: Instances, rows: Tensor, *names: str) -> Instances:
    return Instances(regions.image_size, **{name: regions.get(name)[rows] for name in names if regions.has(name)})


def _summed(parts: list[list[dict[str, Tensor]]], name: str, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pasted, others = (torch.stack([image[i][name] for image in parts]) for i in (0, 1))
    return pasted + others, counts, pasted


def _with_instances(heads: CascadeROIHeads) -> Callable[..., list[Instances]]:
    """A cascade's later stages copy classes and boxes of the matched instances alone; this adds `gt_instance`."""
    original = heads._match_and_label_boxes

    def match_and_label(proposals: list[Instances], stage: int, targets: list[Instances]) -> list[Instances]:
        labelled: list[Instances] = original(proposals, stage, targets)
        for regions, truth in zip(labelled, targets, strict=True):
            if len(truth):
                iou = pairwise_iou(truth.gt_boxes, regions.proposal_boxes)
                regions.gt_instance = truth.gt_instance[heads.proposal_matchers[stage](iou)[0]]
        return labelled

    return match_and_label


class _FederatedDraw:
    """Federated classes are drawn once, from what appears in the whole batch; every part of the loss counts these.

    The drawing function is a method of detectron2's predictor and a function of CenterNet2's module.
    """

    def __init__(self, predictor: FastRCNNOutputLayers, classes: Tensor) -> None:
        self.predictor, self.classes, self.used = predictor, classes, predictor.use_fed_loss
        self.drawn: list[Tensor] = []

    @contextmanager
    def once(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.predictor.use_fed_loss != self.used:  # instances are asked for when the pass is over
                _replace(stack, self.predictor, "use_fed_loss", self.used)
            if self.used:
                self._hold(stack)
            yield

    def _hold(self, stack: ExitStack) -> None:
        module = sys.modules[inspect.getmodule(type(self.predictor)).__name__]  # type: ignore[union-attr]
        owner: Any = module if hasattr(module, "get_fed_loss_inds") else self.predictor
        name = "get_fed_loss_inds" if owner is module else "get_fed_loss_classes"
        draw = getattr(owner, name)

        def once(_: Tensor, *arguments: Any, **named: Any) -> Tensor:
            if not self.drawn:
                self.drawn.append(draw(self.classes, *arguments, **named))
            return self.drawn[0]

        _replace(stack, owner, name, once)
