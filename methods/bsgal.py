"""BSGAL: batched streaming generative active learning.

A pasted batch is accepted by its contribution: how much a training step on it lowers the loss of a reference batch of
real images, estimated to first order from a cache of reference gradients or measured by a probing step.
Source: arXiv 2406.02435 (ICML 2024) and its repository, aim-uofa/DiverGen, folder BSGAL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import references
from methods.contract import (
    DatasetFacts,
    Draw,
    LossKind,
    LossTable,
    Need,
    Proposals,
    Scope,
    Selection,
    Start,
    Step,
    ViewKind,
)
from methods.contribution import GradientCache, RunningWindow
from methods.registry import register
from methods.xpaste import PoolPasting


class Mode(Enum):
    """paste_only: the pasted instances' own loss against a threshold (published for ResNet-50).

    paste_or_ori: the augmented view's full loss against the original view's (published for Swin-L).
    """

    paste_only = "paste_only"
    paste_or_ori = "paste_or_ori"


class Estimator(Enum):
    """gradient: first order, from the cache. loss_difference: the reference loss after a probing SGD step."""

    gradient = "gradient"
    loss_difference = "loss_difference"


class Threshold(Enum):
    """fixed: `tau`. percentile: the value that `accept_rate` of the last contributions exceed. scheduled_percentile:
    the same, with a rate that moves linearly to `accept_rate_end` over the schedule."""

    fixed = "fixed"
    percentile = "percentile"
    scheduled_percentile = "scheduled_percentile"


class CacheRule(Enum):
    momentum = "momentum"
    average = "average"


class CachePrecision(Enum):
    """fp64 is for studies of the estimate itself."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp64 = "fp64"


class ReferenceLoss(Enum):
    """first_stage: the classification loss of the cascade's first stage alone."""

    classification = "classification"
    first_stage = "first_stage"
    box = "box"
    mask = "mask"
    all = "all"


class ReferenceDraws(Enum):
    """Of the two reference passes that the loss difference compares: whether they draw proposals and federated classes
    alike, so that the comparison holds less noise, or each for itself (published for Swin-L, ACTIVE_SEED=0)."""

    paired = "paired"
    independent = "independent"


class ReferencePolicy(Enum):
    """What a reference image holds: one of the drawn classes, a class of the training set, or whatever it holds."""

    drawn_class = "drawn_class"
    random_class = "random_class"
    random_image = "random_image"


class ReferenceProposals(Enum):
    """as_published: ground truth for the gradient, sampled for the loss difference."""

    as_published = "as_published"
    ground_truth = "ground_truth"
    sampled = "sampled"


class EmptyReference(Enum):
    """What to do in a step in which the crop removed all instances of a reference image.

    leave_out: the others serve as always. sampled: like the published code, the image stays, and the whole reference
    batch is run with sampled proposals and the federated loss.
    """

    leave_out = "leave_out"
    sampled = "sampled"


KINDS = {
    ReferenceLoss.classification: (LossKind.CLASSIFICATION,),
    ReferenceLoss.box: (LossKind.BOX,),
    ReferenceLoss.mask: (LossKind.MASK,),
    ReferenceLoss.all: (),
}
CACHE_DTYPES = {
    CachePrecision.fp32: torch.float32,
    CachePrecision.bf16: torch.bfloat16,
    CachePrecision.fp64: torch.float64,
}
PUBLISHED_TAU = -0.05
FIRST_REFERENCES = (
    4  # reference images that an image's first ones make up; more take a second one of each, like the published code
)


@register("bsgal")
@dataclass
class BSGAL(PoolPasting):
    """Accepts pasted batches that would lower the loss of real reference images, by a cache of their gradients.

    tau: threshold of paste_only; without it -0.05 for cosines, like the published code, and 0 for other figures.
    reference_images: the most reference images of a batch that are used; above 4, every image brings a second one, of a
    uniform class, and the batch holds all first ones, then all second ones. reference_every: number of steps between
    reference gradients. shared_pass: reuse the augmented view's training pass for the contribution; exact unless the
    backbone behaves differently in training (stochastic depth, batch statistics), so the published code used a
    separate pass. sync: one decision for all ranks, from averaged gradients. probe_lr: rate of the loss difference's
    SGD step.
    """

    paper = "BSGAL, arXiv 2406.02435"

    mode: Mode = Mode.paste_only
    estimator: Estimator = Estimator.gradient
    threshold: Threshold = Threshold.fixed
    tau: float | None = None
    accept_rate: float = 0.5
    accept_rate_end: float = 0.5
    window: int = 1000
    cache: CacheRule = CacheRule.momentum
    momentum: float = 0.1
    cache_precision: CachePrecision = CachePrecision.fp32
    normalise: bool = True
    scope: Scope = Scope.all
    reference_loss: ReferenceLoss = ReferenceLoss.classification
    reference_policy: ReferencePolicy = ReferencePolicy.drawn_class
    reference_proposals: ReferenceProposals = ReferenceProposals.as_published
    reference_draws: ReferenceDraws = ReferenceDraws.paired
    empty_reference: EmptyReference = EmptyReference.leave_out
    reference_images: int = 4
    reference_every: int = 1
    shared_pass: bool = True
    sync: bool = False
    probe_lr: float = 1.0e-4

    # ---------------------------------------------------------------------------------------------------- configuration

    def validate(self) -> None:
        super().validate()
        for name, low, high in (("accept_rate", 0, 1), ("accept_rate_end", 0, 1), ("momentum", 0, 0.999999)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, and must lie in {low}..{high}")
        for name in ("window", "reference_images", "reference_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be at least 1")
        if not 0 < self.probe_lr < math.inf:
            raise ValueError(f"probe_lr is {self.probe_lr}, and must be positive")
        if self.tau is not None and not math.isfinite(self.tau):
            raise ValueError(f"tau is {self.tau}, and must be a finite number")
        if self.mode is Mode.paste_or_ori and self.threshold is not Threshold.fixed:
            raise ValueError("paste_or_ori compares the two views with each other and takes no percentile threshold")
        if self.mode is Mode.paste_or_ori and self.tau is not None:
            raise ValueError("paste_or_ori compares the two views with each other and takes no tau")
        if self.threshold is Threshold.scheduled_percentile and self.accept_rate == self.accept_rate_end:
            raise ValueError(f"accept_rate moves from {self.accept_rate} to itself; that is threshold=percentile")
        self._refuse_what_nothing_reads()

    def _refuse_what_nothing_reads(self) -> None:
        by_gradient = self.estimator is Estimator.gradient
        if self.threshold is not Threshold.fixed:
            self.refuse_if_set("threshold=fixed", "tau")
        else:
            self.refuse_if_set("threshold=percentile or scheduled_percentile", "accept_rate", "window")
        if self.threshold is not Threshold.scheduled_percentile:
            self.refuse_if_set("threshold=scheduled_percentile", "accept_rate_end")
        if not by_gradient:
            of_gradients = ("scope", "cache", "cache_precision", "normalise", "reference_every", "sync")
            self.refuse_if_set("estimator=gradient", *of_gradients)
        if not by_gradient or self.cache is not CacheRule.momentum:
            self.refuse_if_set("estimator=gradient and cache=momentum", "momentum")
        if by_gradient:
            self.refuse_if_set("estimator=loss_difference", "probe_lr", "reference_draws")

    def required(self) -> frozenset[Need]:
        needs = {Need.PASTED_ATTRIBUTION} if self.mode is Mode.paste_only else set()
        if self._proposals() is Proposals.GROUND_TRUTH:
            needs.add(Need.GROUND_TRUTH_PROPOSALS)
        return frozenset(needs)

    def _proposals(self) -> Proposals:
        if self.reference_proposals is ReferenceProposals.as_published:
            return Proposals.GROUND_TRUTH if self.estimator is Estimator.gradient else Proposals.SAMPLED
        return Proposals[self.reference_proposals.name.upper()]

    # -------------------------------------------------------------------------------------------- per image, in workers

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int | tuple[int, ...]:
        first = self._reference_image(draw, dataset, rng)
        if self.reference_images <= FIRST_REFERENCES:
            return first
        return first, references.of_any_class(dataset, rng)

    def _reference_image(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int:
        if self.reference_policy is ReferencePolicy.random_image:
            return references.any_image(dataset, rng)
        if self.reference_policy is ReferencePolicy.drawn_class:
            return references.of_drawn_class(draw, dataset, rng)
        return references.of_any_class(dataset, rng)

    def keeps_emptied_references(self) -> bool:
        return self.empty_reference is EmptyReference.sampled

    # ------------------------------------------------------------------------------------------ per step, on the device

    def brings_gradient(self) -> bool:
        """The accepted view's is the training gradient, where it is of the pass that is trained on."""
        compared = self.mode is Mode.paste_or_ori and self.estimator is Estimator.gradient
        return compared and self.scope is Scope.all and self.shared_pass and not self.sync

    def start(self, start: Start) -> None:
        brought = start.images_per_rank * (1 if self.reference_images <= FIRST_REFERENCES else 2)
        if FIRST_REFERENCES < self.reference_images > brought:
            raise ValueError(
                f"reference_images is {self.reference_images}, and {start.images_per_rank} images a rank bring "
                f"{brought}: take fewer, or a larger schedule.batch_per_rank"
            )
        self._device = start.device
        self._gradients: GradientCache | None = None
        self._buffer: Tensor | None = None
        self._of_original: Tensor | None = None
        self._window = RunningWindow(self.window, start.device)

    def select(self, step: Step) -> Selection:
        if self.estimator is Estimator.loss_difference:
            return self._by_loss_difference(step)
        cache = self._updated_cache(step)
        if not self._anything_pasted(step) or cache.updates == 0:
            return Selection(keep=torch.ones_like(step.has_pasted), decided=False)
        if self.mode is Mode.paste_or_ori:
            return self._between_views(step, cache)
        pasted = self._pasted_losses(step).pasted_total(LossKind.CLASSIFICATION)
        contribution = self._contribution(step, cache, pasted, "pasted")
        return _for_all(step, contribution, self._threshold(step, contribution))

    def _between_views(self, step: Step, cache: GradientCache) -> Selection:
        buffer = self._buffers(step)[1]
        if self._of_original is None:
            self._of_original = torch.zeros_like(buffer) if self.brings_gradient() else buffer
        held = self._of_original
        original = self._contribution(step, cache, self._view_loss(step, ViewKind.ORIGINAL), "original", out=held)
        augmented = self._contribution(step, cache, self._view_loss(step, ViewKind.AUGMENTED), "augmented")
        selection = _for_all(step, augmented, original)
        if not self.brings_gradient():
            return selection
        return replace(selection, gradient=torch.where(augmented >= original, buffer, held, out=held))

    def _view_loss(self, step: Step, view: ViewKind) -> Tensor:
        return step.losses(view, backbone_in_eval=not self.shared_pass, grad=True).total()

    def _pasted_losses(self, step: Step) -> LossTable:
        return step.losses(ViewKind.AUGMENTED, backbone_in_eval=not self.shared_pass, grad=True)

    def _updated_cache(self, step: Step) -> GradientCache:
        """The cache, updated with this step's reference gradient if one is due and there are reference images."""
        cache, buffer = self._buffers(step)
        if step.iteration % self.reference_every and cache.updates:
            return cache
        present = step.num_references > 0
        if present:
            loss = self._reference_total(self._reference_losses(step, grad=True))
            step.gradient(loss, self.scope, out=buffer, keep_graph=False)
        if self.sync:
            # Every rank takes part in every average; those without reference images weigh nothing.
            share = step.average(torch.full((), float(present), device=buffer.device))
            if not present:
                buffer.zero_()
            buffer.copy_(step.average(buffer)).div_(share.clamp(min=1e-12))
            present = bool(share > 0)
        if present:
            cache.update(buffer)
            step.log("contribution/reference_norm", cache.norm())
        return cache

    def _contribution(
        self, step: Step, cache: GradientCache, loss: Tensor, name: str, out: Tensor | None = None
    ) -> Tensor:
        """⟨G, ∇loss⟩ as a scalar on the device, divided by the two norms if asked for.

        The gradient is left in `out`, or in the step's buffer.
        """
        buffer = self._buffers(step)[1] if out is None else out
        step.gradient(loss, self.scope, out=buffer)
        if self.sync:
            buffer.copy_(step.average(buffer))
        norm = torch.linalg.vector_norm(buffer)
        step.log(f"contribution/{name}_norm", norm)
        product = cache.product(buffer)
        return product / (cache.norm() * norm + 1e-8) if self.normalise else product

    def _anything_pasted(self, step: Step) -> bool:
        if not self.sync:
            return step.any_pasted
        return bool(step.average(torch.full((), float(step.any_pasted), device=step.has_pasted.device)) > 0)

    def _threshold(self, step: Step, *contributions: Tensor) -> Tensor:
        """The value that these contributions must reach; they count in the percentile of later steps."""
        if self.threshold is Threshold.fixed:
            return torch.full_like(contributions[0], self._tau)
        rate = self.accept_rate
        if self.threshold is Threshold.scheduled_percentile:
            rate += (self.accept_rate_end - self.accept_rate) * step.progress
        threshold = self._window.quantile(1 - rate)
        for contribution in contributions:
            self._window.add(contribution)
        return threshold.to(contributions[0].dtype)

    def _by_loss_difference(self, step: Step) -> Selection:
        if not step.any_pasted or step.num_references == 0:
            return Selection(keep=torch.ones_like(step.has_pasted), decided=False)
        if self.mode is Mode.paste_only:
            pasted = self._pasted_losses(step).pasted_total(LossKind.CLASSIFICATION)
            before = self._reference_total(self._reference_losses(step, grad=False))
            contribution = before - self._after_probe(step, ViewKind.AUGMENTED, pasted)
            return _for_all(step, contribution, self._threshold(step, contribution))
        original = self._after_probe(step, ViewKind.ORIGINAL, self._view_loss(step, ViewKind.ORIGINAL))
        augmented_loss = self._view_loss(step, ViewKind.AUGMENTED)
        draws = 0 if self.reference_draws is ReferenceDraws.paired else 1
        augmented = self._after_probe(step, ViewKind.AUGMENTED, augmented_loss, draws)
        step.log("reference_loss/after_original", original)
        step.log("reference_loss/after_augmented", augmented)
        # As published, a tie goes to the original view.
        keep = (augmented < original).expand(len(step.has_pasted))
        return Selection(keep=keep, contribution=original - augmented, threshold=torch.zeros_like(original))

    def _after_probe(self, step: Step, view: ViewKind, loss: Tensor, draws: int = 0) -> Tensor:
        proposals, images = self._reference_proposals(step), self.reference_images
        table = step.losses_after_step(view, self.probe_lr, proposals, loss=loss, images=images, draws=draws)
        return self._reference_total(table)

    def _reference_losses(self, step: Step, grad: bool) -> LossTable:
        proposals, images = self._reference_proposals(step), self.reference_images
        return step.losses(ViewKind.REFERENCE, proposals, backbone_in_eval=True, grad=grad, images=images)

    def _reference_proposals(self, step: Step) -> Proposals:
        emptied = 0 in step.reference_instances[: self.reference_images]
        return Proposals.SAMPLED if emptied else self._proposals()

    def _reference_total(self, table: LossTable) -> Tensor:
        if self.reference_loss is ReferenceLoss.first_stage:
            return table.batch(table.names(LossKind.CLASSIFICATION)[0])
        return table.total(*KINDS[self.reference_loss])

    # ------------------------------------------------------------------------------------------------------------ state

    @property
    def _tau(self) -> float:
        if self.tau is not None:
            return self.tau
        return PUBLISHED_TAU if self.estimator is Estimator.gradient and self.normalise else 0.0

    def _buffers(self, step: Step) -> tuple[GradientCache, Tensor]:
        """The cache and the flat buffer that a step's gradients are written to one by one, made at the first step."""
        if self._gradients is None:
            self._gradients = self._new_cache(step.num_parameters(self.scope))
        if self._buffer is None:
            self._buffer = torch.zeros_like(self._gradients.mean, dtype=step.dtype)
        return self._gradients, self._buffer

    def _new_cache(self, size: int) -> GradientCache:
        momentum = self.momentum if self.cache is CacheRule.momentum else None
        return GradientCache(size, momentum, CACHE_DTYPES[self.cache_precision], self._device)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"window": self._window.state_dict()}
        if self._gradients is not None:
            state["cache"] = self._gradients.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window.load_state_dict(state["window"])
        if "cache" in state:
            self._gradients = self._new_cache(len(state["cache"]["mean"]))
            self._gradients.load_state_dict(state["cache"])


def _for_all(step: Step, contribution: Tensor, threshold: Tensor) -> Selection:
    """One decision for all images of the batch: accept at or above the threshold."""
    keep = (contribution >= threshold).expand(len(step.has_pasted))
    return Selection(keep=keep, contribution=contribution, threshold=threshold)
