"""Which of an image's instances the terms of detectron2's losses belong to.

Its loss functions run a second time, on one instance's regions at a time, and only when a method asks: methods that
decide about whole images, or accept everything, pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from methods.contract import Attribution

# (image, instance, number of regions that count in the normaliser, their losses by name)
Part = tuple[int, int, int, dict[str, Tensor]]


def attributes_instances(model: nn.Module) -> bool:
    """Whether every loss of a model is known by instance: an RPN, boxes and Mask R-CNN's masks, and nothing else."""
    generator, heads = getattr(model, "proposal_generator", None), getattr(model, "roi_heads", None)
    mask_head = getattr(heads, "mask_head", None)
    return (
        isinstance(generator, RPN)
        and type(generator).label_and_sample_anchors is RPN.label_and_sample_anchors
        and isinstance(heads, ROIHeads)
        and (mask_head is None or splits_masks(mask_head))
        and not getattr(heads, "keypoint_on", False)
        and not hasattr(model, "sem_seg_head")
    )


def splits_masks(head: object) -> bool:
    """Whether a mask head's loss is Mask R-CNN's."""
    return isinstance(head, BaseMaskRCNNHead) and type(head).forward is BaseMaskRCNNHead.forward


def owners(regions: Instances, background: int) -> Tensor:
    """(R,) int64 the instance that each region was matched to, -1 for one that is no foreground."""
    classes = regions.gt_classes
    if not regions.has("gt_instance"):  # an image without ground truth
        return torch.full_like(classes, -1)
    return torch.where((classes >= 0) & (classes < background), regions.gt_instance, -1)


def by_instance(owner: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each instance that appears in owner (R,), with its regions."""
    for instance in owner.unique().tolist():
        if instance >= 0:
            yield int(instance), (owner == instance).nonzero().flatten()


class OnDemand(Attribution):
    """An attribution that is computed when it is first read."""

    _make: Callable[[], Attribution]

    def __init__(self, make: Callable[[], Attribution]) -> None:
        vars(self)["_make"] = make

    def changed(self, change: Callable[[Tensor], Tensor]) -> Attribution:
        return OnDemand(lambda: self._make().changed(change))

    def __getattr__(self, name: str) -> object:
        if name == "_make":
            raise AttributeError(name)
        vars(self).update(vars(self._make()))
        return vars(self)[name]


def attributions(
    names: tuple[str, ...], shape: tuple[int, int], like: Tensor, parts: Callable[[], Iterator[Part]]
) -> dict[str, Attribution]:
    """The attribution of each of these losses, by name; `parts` computes the terms of all of them. shape: (n, G)."""

    @cache
    def made() -> list[Part]:
        with ExitStack() as stack:
            stack.enter_context(EventStorage(0))
            stack.enter_context(torch.enable_grad())
            return list(parts())

    def of(name: str) -> Attribution:
        found = made()
        return Attribution(
            terms=torch.stack([losses[name] for *_, losses in found]) if found else like.new_zeros(0),
            units=like.new_tensor([float(units) for _, _, units, _ in found]),
            instance=torch.tensor([image * shape[1] + i for image, i, _, _ in found], device=like.device).long(),
            shape=shape,
        )

    return {name: OnDemand(lambda name=name: of(name)) for name in names}  # type: ignore[misc]
