"""Losses of a view by name, image and instance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from methods.contract.choices import LossKind


@dataclass(frozen=True)
class Attribution:
    """Which instance each of a loss's R terms belongs to.

    terms (R,): summed over an image they are the loss's `sum`, or a part of it. units (R,): what each adds to the
    normaliser. instance (R,) int64: image * G + instance, -1 for a term of no instance. shape: (n, G).
    """

    terms: Tensor
    units: Tensor
    instance: Tensor
    shape: tuple[int, int]

    def changed(self, change: Callable[[Tensor], Tensor]) -> Attribution:
        """A copy with `change` applied to every tensor."""
        found: Attribution = _changed(self, change)
        return found

    def by_instance(self, values: Tensor) -> Tensor:
        """(n, G) sums of values (R,) per instance."""
        places = torch.arange(self.shape[0] * self.shape[1], device=values.device)
        # A product with zeros and ones: scattered additions are in no fixed order on a GPU.
        return (values @ (self.instance[:, None] == places).to(values.dtype)).view(self.shape)


@dataclass(frozen=True)
class LastLayer:
    """What a classification loss's last layer, a linear one of C classes, sees of R regions; all without gradient.

    inputs (R, F); logits (R, C); labels (R,) int64, C for background; counted (R, C) bool, the logits that the loss
    counts; image (R,) int64. Regions are those of the loss's `attribution`, whose terms are sums of sigmoid
    cross-entropies over the counted logits.
    """

    inputs: Tensor
    logits: Tensor
    labels: Tensor
    counted: Tensor
    image: Tensor

    def take(self, rows: Tensor) -> LastLayer:
        """Only the regions `rows` (k,)."""
        return LastLayer(self.inputs[rows], self.logits[rows], self.labels[rows], self.counted[rows], self.image[rows])

    @property
    def errors(self) -> Tensor:
        """(R, C) the derivative of each region's term by its logits.

        A term's gradient in the layer's weights (C, F) is the outer product of its errors and its inputs; in the biases
        (C,) it is the errors.
        """
        goal = torch.arange(self.logits.shape[1], device=self.labels.device) == self.labels[:, None]
        return (self.logits.sigmoid() - goal.to(self.logits.dtype)) * self.counted


@dataclass(frozen=True)
class Loss:
    """One loss as per-image sums.

    sum (n,): the loss summed over the image's terms. count (n,): what the image adds to the normaliser.
    pasted (n,): the part of `sum` that comes from pasted instances, if the engine attributes it.
    across_ranks: the normaliser is the mean over ranks (CenterNet's number of positives), reduced after the decision.
    attribution: which instance each term belongs to, if the engine knows. last_layer: what the terms of a
    classification loss are computed from, if the engine says.
    """

    kind: LossKind
    sum: Tensor
    count: Tensor
    pasted: Tensor | None = None
    across_ranks: bool = False
    attribution: Attribution | None = None
    last_layer: LastLayer | None = None

    @property
    def instances(self) -> Tensor:
        """(n, G) the part of `sum` that belongs to each instance: terms matched to it, no background.

        Raises ValueError if the engine does not attribute this loss.
        """
        return self._attributed.by_instance(self._attributed.terms)

    def selected(self, keep: Tensor | None, weight: Tensor | None) -> Loss:
        """The loss without the instances that `keep` (n, G) bool leaves out: their terms count neither in the sum nor
        in the normaliser. `weight` (n,) multiplies images' sums, (n, G) instances' terms; normalisers stay.

        Raises ValueError as `instances` where (n, G) is asked for.
        """
        total, count = self.sum, self.count
        factor = None if weight is None or weight.dim() == 1 else weight
        if keep is not None:
            ignored = ~keep
            units = self._attributed.by_instance(self._attributed.units)
            count = count - (units * ignored).sum(1)
            factor = keep.to(total.dtype) if factor is None else factor * keep
        if factor is not None:
            # What is taken off cancels term by term in the gradient too, so an ignored term's is exactly zero.
            total = total - (self.instances * (1 - factor)).sum(1)
        if weight is not None and weight.dim() == 1:
            total = total * weight
        return replace(self, sum=total, count=count, pasted=None, attribution=None, last_layer=None)

    @property
    def _attributed(self) -> Attribution:
        if self.attribution is None:
            raise ValueError(f"the engine does not say which instance the {self.kind.value} loss's terms belong to")
        return self.attribution


@dataclass(frozen=True)
class LossTable:
    """Losses by name. A batch loss is a sum over images divided by the summed counts (at least 1)."""

    losses: Mapping[str, Loss]
    trace: object = None  # what an engine keeps of the pass, for `Engine.confidence`

    def names(self, *kinds: LossKind) -> tuple[str, ...]:
        """Names of the losses of these kinds; all without one."""
        return tuple(name for name, loss in self.losses.items() if not kinds or loss.kind in kinds)

    def batch(self, name: str, normaliser: Tensor | None = None) -> Tensor:
        """One loss of the batch, a scalar; `normaliser` replaces the local count where ranks share one."""
        loss = self.losses[name]
        return loss.sum.sum() / (loss.count.sum() if normaliser is None else normaliser).clamp(min=1)

    def total(self, *kinds: LossKind) -> Tensor:
        """Sum of the batch losses of these kinds (all without one), a scalar."""
        return torch.stack([self.batch(name) for name in self.names(*kinds)]).sum()

    def pasted_total(self, *kinds: LossKind) -> Tensor:
        """The part of `total` that comes from pasted instances, over the same normalisers."""
        parts = []
        for name in self.names(*kinds):
            loss = self.losses[name]
            if loss.pasted is None:
                raise ValueError(f"the engine does not say which part of {name} comes from pasted instances")
            parts.append(loss.pasted.sum() / loss.count.sum().clamp(min=1))
        return torch.stack(parts).sum()

    def per_image(self, *kinds: LossKind, pasted: bool = False) -> Tensor:
        """(n,) each image's share of `total` (or of `pasted_total`): its sums over the batch's normalisers."""
        parts = []
        for name in self.names(*kinds):
            loss = self.losses[name]
            value = loss.pasted if pasted else loss.sum
            if value is None:
                raise ValueError(f"the engine does not say which part of {name} comes from pasted instances")
            parts.append(value / loss.count.sum().clamp(min=1))
        return torch.stack(parts).sum(0)

    def per_instance(self, *kinds: LossKind) -> Tensor:
        """(n, G) each instance's share of `total`: the terms matched to it over the batch's normalisers.

        Its sum over pasted instances is `pasted_total`. Columns are those of `Step.instances` for the augmented view.
        """
        losses = [self.losses[name] for name in self.names(*kinds)]
        return torch.stack([loss.instances / loss.count.sum().clamp(min=1) for loss in losses]).sum(0)

    def selected(self, keep: Tensor | None = None, weight: Tensor | None = None) -> LossTable:
        """Every loss without the instances that `keep` (n, G) bool leaves out, weighted by `weight` (n,) or (n, G)."""
        return LossTable({name: loss.selected(keep, weight) for name, loss in self.losses.items()})

    def without(self, instances: Tensor, kinds: Collection[LossKind]) -> LossTable:
        """The losses of these kinds without `instances` (n, G) bool, in sum and normaliser; others unchanged."""
        kept = {name: each.selected(~instances, None) for name, each in self.losses.items() if each.kind in kinds}
        return LossTable({**self.losses, **kept})

    def copied(self) -> LossTable:
        """A copy with the same gradients; writing to its tensors changes nothing else."""
        return self._mapped(torch.Tensor.clone)

    def detached(self) -> LossTable:
        """A copy without gradients."""
        return self._mapped(lambda tensor: tensor.detach().clone())

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> LossTable:
        return LossTable(MappingProxyType({name: _changed(loss, change) for name, loss in self.losses.items()}))

    def where(self, keep: Tensor, other: LossTable) -> LossTable:
        """Per image, this table where `keep` (n,) bool holds and `other` elsewhere."""
        mixed = {}
        for name, loss in self.losses.items():
            rest = other.losses[name]
            mixed[name] = replace(
                loss,
                sum=torch.where(keep, loss.sum, rest.sum),
                count=torch.where(keep, loss.count, rest.count),
                pasted=None,
                attribution=None,
                last_layer=None,
            )
        return LossTable(mixed)


def _changed(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A dataclass with `change` made to every tensor in it and in the dataclasses that it holds."""
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    return replace(
        record,
        **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)},
        **{name: value.changed(change) for name, value in values.items() if isinstance(value, Attribution)},
        **{name: _changed(value, change) for name, value in values.items() if isinstance(value, LastLayer)},
    )
