"""mmdet's losses, taken apart by image.

mmdet's heads compute their losses as usual, but their loss modules leave the terms unreduced, and their samplers note
which regions they drew. Regions are ordered by image, matched ones first. The parts add up to mmdet's own losses: no
supported head has a normaliser that ranks share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.models.task_modules.samplers import PseudoSampler
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.sample import Targets
from harness.errors import UserError
from methods.contract import Attribution, Loss, LossKind

KINDS = {
    "loss_cls": LossKind.CLASSIFICATION,
    "loss_cls_objectness": LossKind.CLASSIFICATION,
    "loss_cls_classes": LossKind.CLASSIFICATION,
    "loss_bbox": LossKind.BOX,
    "loss_mask": LossKind.MASK,
}
OF_REGIONS = ("loss_cls", "loss_cls_objectness")  # the other losses have a term for each matched region alone


# ---------------------------------------------------------------------------------------------- while mmdet computes


@contextmanager
def unreduced(head: nn.Module) -> Iterator[None]:
    """A head's loss modules give a term per region or anchor."""
    modules: list[Any] = [module for module in head.modules() if isinstance(getattr(module, "reduction", None), str)]
    held = [(module, module.reduction, getattr(module, "cls_criterion", None)) for module in modules]
    try:
        for module in modules:
            if isinstance(module, CrossEntropyLoss) and module.use_mask:
                module.cls_criterion = _mask_terms
            else:
                module.reduction = "none"
        yield
    finally:
        for module, reduction, criterion in held:
            module.reduction = reduction
            if criterion is not None:
                module.cls_criterion = criterion


def _mask_terms(logits: Tensor, target: Tensor, label: Tensor, **_: Any) -> Tensor:
    """(P,) mean binary cross-entropy over each mask (P, classes, s, s); mmdet's own has only the mean over all."""
    own = logits[torch.arange(len(logits), device=logits.device), label]
    return F.binary_cross_entropy_with_logits(own, target, reduction="none").flatten(1).mean(1)


@dataclass
class Noted:
    """A sampler that notes its results: stage by stage, within one image by image."""

    sampler: Any
    results: list[Any] = field(default_factory=list)

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        result = self.sampler.sample(*args, **kwargs)
        self.results.append(result)
        return result


class _Itself:
    """Assigns every region to the instance of its own index: the regions are the ground truth."""

    def assign(self, regions: InstanceData, truth: InstanceData, *_: Any, **__: Any) -> AssignResult:
        each = torch.arange(1, len(truth) + 1, device=truth.labels.device)
        return AssignResult(len(truth), each, torch.ones_like(each, dtype=torch.float32), truth.labels)


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    held = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, held)


# ------------------------------------------------------------------------------------------------- proposal network


def proposal_losses(
    head: RPNHead, features: Sequence[Tensor], samples: Sequence[Any], settings: Any
) -> tuple[dict[str, Loss], list[InstanceData]]:
    """The proposal network's losses by image, and its proposals."""
    n = len(samples)
    anchors = _NotedAnchors(head)
    with unreduced(head), _attribute(head, "_get_targets_single", anchors.get_targets_single):
        parts, proposals = head.loss_and_predict(features, samples, proposal_cfg=settings)
    count = features[0].new_tensor([float(result.avg_factor) for result in anchors.results])
    lengths = [level.numel() // (n * head.cls_out_channels) for level in parts["loss_rpn_cls"]]
    shape = n, most_instances(sample.gt_instances for sample in samples)
    table = {}
    for name, levels in parts.items():
        # A scalar, a zero, is what mmdet makes of a level without a matched anchor.
        known = [level.reshape(n, -1).sum(1) for level in levels if level.dim()]
        total = torch.stack(known).sum(0) if known else torch.zeros_like(count)
        loss = Loss(LossKind.PROPOSAL, total, count, attribution=anchors.attribution(levels, lengths, shape))
        table[name if "rpn" in name else f"rpn_{name}"] = loss
    return table, proposals


class _NotedAnchors:
    """A proposal network's targets, noted image by image."""

    def __init__(self, head: RPNHead) -> None:
        self._original = head._get_targets_single
        self._background = head.num_classes
        self.results: list[Any] = []
        self._matched: list[Tensor] = []  # (k,) anchors that are matched, ascending, among those of all levels
        self._instances: list[Tensor] = []  # (k,) what each of them is matched to

    def get_targets_single(self, *arguments: Any, **named: Any) -> Any:
        targets = self._original(*arguments, **named)
        labels, matched, result = targets[0], targets[4], targets[6]
        self.results.append(result)
        # `matched` counts the anchors inside the image alone, and in the order of the sampler.
        self._matched.append((labels != self._background).nonzero().flatten())
        self._instances.append(result.pos_assigned_gt_inds[matched.argsort()])
        return targets

    def attribution(self, levels: Sequence[Tensor], lengths: Sequence[int], shape: tuple[int, int]) -> Attribution:
        """Of a loss with a term, or several, for each anchor of each level, which has `lengths` an image."""
        n, most = shape
        terms = torch.cat(
            [
                level.reshape(n, length, -1).sum(2) if level.dim() else level.new_zeros(n, length)
                for level, length in zip(levels, lengths, strict=True)
            ],
            dim=1,
        )
        own = torch.cat([terms[i, anchors] for i, anchors in enumerate(self._matched)])
        places = torch.cat([i * most + instances for i, instances in enumerate(self._instances)])
        return Attribution(own, torch.ones_like(own), places, shape)


def most_instances(images: Iterable[Any]) -> int:
    """G: the largest number of instances of an image, at least 1."""
    return max(1, *(len(image) for image in images))


# ------------------------------------------------------------------------------------------------------------- heads


@dataclass(frozen=True)
class Regions:
    """The regions that a stage drew of n images: how many, how many of them matched, and of each matched one the
    instance, by image, and whether that was pasted. shape: (n, G) of the instances."""

    drawn: list[int]
    matched: list[int]
    instances: list[Tensor]
    pasted: list[Tensor]
    shape: tuple[int, int]

    @classmethod
    def of(cls, results: Sequence[Any], targets: Sequence[Targets]) -> Regions:
        return cls(
            [len(result.priors) for result in results],
            [len(result.pos_priors) for result in results],
            [result.pos_assigned_gt_inds for result in results],
            [target.pasted[result.pos_assigned_gt_inds] for result, target in zip(results, targets, strict=True)],
            (len(targets), most_instances(targets)),
        )

    def attribution(self, matched: Sequence[Tensor]) -> Attribution:
        """Of the matched regions' terms, by image. Each region counts once in its normaliser."""
        terms = torch.cat(list(matched))
        places = torch.cat([image * self.shape[1] + own for image, own in enumerate(self.instances)])
        return Attribution(terms, torch.ones_like(terms), places, self.shape)


def region_losses(
    head: StandardRoIHead | CascadeRoIHead,
    features: Sequence[Tensor],
    proposals: list[InstanceData],
    samples: Sequence[Any],
    targets: Sequence[Targets],
) -> dict[str, Loss]:
    """Losses of box and mask heads by image, with the part of pasted instances."""
    samplers = _samplers(head)
    noted = [Noted(sampler) for sampler in samplers]
    with unreduced(head), _attribute(head, "bbox_sampler", noted if _is_cascade(head) else noted[0]):
        parts = head.loss(features, proposals, samples)
    return _table(head, parts, [Regions.of(each.results, targets) for each in noted], features[0])


def ground_truth_losses(
    head: StandardRoIHead | CascadeRoIHead,
    features: Sequence[Tensor],
    samples: Sequence[Any],
    targets: Sequence[Targets],
) -> dict[str, Loss]:
    """Like `region_losses`, with the ground-truth boxes as the only regions; a cascade's later stages refine them."""
    proposals = [InstanceData(bboxes=target.boxes, labels=target.labels) for target in targets]
    every = [PseudoSampler() for _ in _samplers(head)]
    assigner = [_Itself(), *head.bbox_assigner[1:]] if _is_cascade(head) else _Itself()
    with ExitStack() as stack:
        stack.enter_context(_attribute(head, "bbox_sampler", every if _is_cascade(head) else every[0]))
        stack.enter_context(_attribute(head, "bbox_assigner", assigner))
        return region_losses(head, features, proposals, samples, targets)


def _table(
    head: StandardRoIHead | CascadeRoIHead, parts: Mapping[str, Tensor], stages: Sequence[Regions], like: Tensor
) -> dict[str, Loss]:
    unknown = [n for n in parts if "loss" in n and n.rpartition(".")[2] not in KINDS]
    if unknown:
        raise UserError(
            f"engine=mmdet: this model's {unknown[0]} cannot be attributed to single images; "
            "see docs/explanation/engines.md"
        )
    n = len(stages[0].drawn)
    table = {}
    for name in loss_names(head):
        stage, _, short = name.rpartition(".")
        index = int(stage[1:]) if stage else 0
        zeros = like.new_zeros(n)
        nothing = Attribution(zeros[:0], zeros[:0], zeros[:0].long(), stages[index].shape)
        none = Loss(KINDS[short], sum=zeros, count=zeros, pasted=zeros, attribution=nothing)
        # mmdet leaves a loss out, or makes it zero, where it has no regions.
        known = name in parts and parts[name].dim() > 0
        table[name] = _loss(short, parts[name], stages[index]) if known and stages[index].drawn else none
    return table


def _loss(short: str, terms: Tensor, regions: Regions) -> Loss:
    each = terms.flatten(1).sum(1) if terms.dim() > 1 else terms
    of_regions = short in OF_REGIONS
    lengths = regions.drawn if of_regions else regions.matched
    if sum(lengths) != len(each):
        raise UserError(
            f"engine=mmdet: {short} has {len(each)} terms for {sum(lengths)} regions; see docs/explanation/engines.md"
        )
    images = each.split(lengths)
    matched = [part[:k] for part, k in zip(images, regions.matched, strict=True)]  # these lie first
    pasted = [part * own for part, own in zip(matched, regions.pasted, strict=True)]
    return Loss(
        KINDS[short],
        sum=_sums(images),
        count=each.new_tensor([float(k) for k in (regions.matched if short == "loss_mask" else regions.drawn)]),
        pasted=_sums(pasted),
        attribution=regions.attribution(matched),
    )


def _sums(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.sum() for part in parts])


def loss_names(head: StandardRoIHead | CascadeRoIHead) -> list[str]:
    """The names of a head's losses, the same for every batch."""
    names = []
    for index, box_head in enumerate(_listed(head.bbox_head)):
        stage = f"s{index}." if _is_cascade(head) else ""
        in_two = getattr(box_head.loss_cls, "return_dict", False)
        shorts = ["loss_cls_objectness", "loss_cls_classes"] if in_two else ["loss_cls"]
        names += [stage + short for short in (*shorts, "loss_bbox", *(["loss_mask"] if head.with_mask else []))]
    return names


def last_layers(head: StandardRoIHead | CascadeRoIHead) -> list[nn.Module]:
    """The layers that predict classes, stage by stage."""
    return [box_head.fc_cls for box_head in _listed(head.bbox_head)]


def _samplers(head: StandardRoIHead | CascadeRoIHead) -> list[Any]:
    return list(head.bbox_sampler) if _is_cascade(head) else [head.bbox_sampler]


def _listed(part: nn.Module) -> list[Any]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _is_cascade(head: nn.Module) -> bool:
    return isinstance(head, CascadeRoIHead)


@contextmanager
def counters_kept(module: nn.Module, keep: bool) -> Iterator[None]:
    """Losses that count the samples they have seen (Seesaw) do not count those of this pass."""
    counters = [b for name, b in module.named_buffers() if name.endswith("cum_samples")] if keep else []
    before = [counter.clone() for counter in counters]
    yield
    for counter, value in zip(counters, before, strict=True):
        counter.data.copy_(value)
