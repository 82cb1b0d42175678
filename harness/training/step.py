"""One training step: what a method is handed, and what is made of its decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from harness.data.sample import Batch, View
from harness.data.seeding import derived_seed, generator
from harness.engine.contract import Engine
from harness.training.distributed import Ranks
from harness.training.flat_gradient import FlatGradient
from methods.contract import Instances, LossTable, Proposals, Scope, Selection, ViewKind


@dataclass(frozen=True)
class StepPosition:
    """The run and position of a step; all of its randomness follows from this."""

    seed: int
    iteration: int
    total_iterations: int


class TrainingStep:
    """Implements `methods.contract.Step` over an engine.

    Every view's pass is computed once and kept for training. Batch-norm statistics move only for the passes that are
    trained on: each pass starts from the step's first statistics, and `commit` writes those of the trained views.

    `scale` multiplies a loss by the scale that keeps half precision gradients from vanishing.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Batch,
        position: StepPosition,
        ranks: Ranks,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.engine, self.batch, self.ranks = engine, batch, ranks
        self.iteration = position.iteration
        self.progress = position.iteration / max(position.total_iterations, 1)
        self.seed = position.seed
        self.rng: np.random.Generator = generator(position.seed, f"method/rank{ranks.rank}", position.iteration)
        first = next(engine.module.parameters())
        self.device, self.dtype = first.device, first.dtype
        self._has_pasted = batch.has_pasted.to(self.device)
        self.any_pasted = bool(batch.has_pasted.any())
        self._scale = scale
        self._tables: dict[tuple[ViewKind, Proposals, bool, int, bool], LossTable] = {}  # the last: with a graph
        self._statistics = _running_statistics(engine.module)
        self._statistics_after: dict[ViewKind, list[Tensor]] = {}
        self.logged: dict[str, float | Tensor] = {}
        self.overflowed = torch.zeros((), dtype=torch.bool, device=self.device)  # a gradient that a method asked for

    @property
    def has_pasted(self) -> Tensor:
        return self._has_pasted.clone()

    @property
    def instances(self) -> Instances:
        own = self._instances
        return Instances(own.pasted.clone(), own.pool_row.clone(), own.labels.clone(), own.boxes.clone())

    @cached_property
    def _instances(self) -> Instances:
        targets = [view.targets for view in self.batch.augmented]

        def padded(parts: list[Tensor], fill: float) -> Tensor:
            together = pad_sequence([part.to(self.device) for part in parts], batch_first=True, padding_value=fill)
            return together if together.shape[1] else together.new_full((len(parts), 1, *together.shape[2:]), fill)

        return Instances(
            pasted=padded([each.pasted for each in targets], False),
            pool_row=padded([each.pool_row for each in targets], -1),
            labels=padded([each.labels for each in targets], 0),
            boxes=padded([each.boxes for each in targets], 0.0),
        )

    def confidence(self) -> Tensor:
        if not self.any_pasted:
            return torch.full(self._instances.pasted.shape, torch.nan, device=self.device)
        table = self._table(ViewKind.AUGMENTED, Proposals.SAMPLED)
        found = self.engine.confidence(self.batch.augmented, table).float()
        return found.masked_fill(~self._instances.pasted, torch.nan)

    @property
    def num_references(self) -> int:
        return len(self.batch.reference)

    @property
    def reference_instances(self) -> tuple[int, ...]:
        return tuple(len(view.targets) for view in self.batch.reference)

    def losses(
        self,
        view: ViewKind,
        proposals: Proposals = Proposals.SAMPLED,
        *,
        backbone_in_eval: bool = False,
        grad: bool = False,
        images: int | None = None,
    ) -> LossTable:
        trained = view is not ViewKind.REFERENCE and proposals is Proposals.SAMPLED and not backbone_in_eval
        whole = images is None or images >= len(self.batch.samples)
        with_graph = grad or (trained and whole)
        table = self._table(view, proposals, backbone_in_eval=backbone_in_eval, grad=with_graph, images=images)
        # A method that writes to what it is handed must not change what is trained on.
        return table.copied() if grad else table.detached()

    def _table(
        self,
        view: ViewKind,
        proposals: Proposals = Proposals.SAMPLED,
        *,
        backbone_in_eval: bool = False,
        grad: bool = True,
        images: int | None = None,
    ) -> LossTable:
        if view is ViewKind.AUGMENTED and not self.any_pasted:
            view = ViewKind.ORIGINAL
        views = self._views(view)[:images]
        key = (view, proposals, backbone_in_eval, len(views))
        known = self._tables.get((*key, True)) or self._tables.get((*key, grad))
        if known is not None:
            return known
        # A pass that is not trained on draws for itself, like the published code.
        apart = "/apart" if backbone_in_eval and view is not ViewKind.REFERENCE else ""
        with torch.set_grad_enabled(grad):
            table = self._pass(view, views, proposals, backbone_in_eval, apart)
        self._tables[(*key, grad)] = table
        return table

    def _views(self, view: ViewKind) -> list[View]:
        views: list[View] = getattr(self.batch, view.value)
        if not views:
            raise ValueError("the step has no reference image; ask `num_references` first")
        return views

    def _pass(
        self, view: ViewKind, views: list[View], proposals: Proposals, backbone_in_eval: bool, draws: str = ""
    ) -> LossTable:
        """`draws` keys the proposals and federated classes that are drawn, beside view, rank and iteration."""
        rng = torch.Generator(self.device)
        rng.manual_seed(derived_seed(self.seed, f"detector/{view.value}{draws}/rank{self.ranks.rank}", self.iteration))
        before = [b.clone() for b in self._statistics]
        table = self.engine.losses(views, proposals, rng, backbone_in_eval=backbone_in_eval)
        if not backbone_in_eval:
            self._statistics_after[view] = [b.clone() for b in self._statistics]
        _overwrite(self._statistics, before)
        return table

    def gradient(
        self, loss: Tensor, scope: Scope = Scope.all, out: Tensor | None = None, *, keep_graph: bool = True
    ) -> Tensor:
        if not loss.requires_grad:
            raise ValueError("the loss has no graph to take a gradient of: ask `step.losses(..., grad=True)` for it")
        if out is None:
            out = torch.empty(self.num_parameters(scope), device=self.device, dtype=self.dtype)
        flat = FlatGradient(self.engine.parameters(scope), out)
        if self._scale is None:
            return flat.backward(loss, keep_graph=keep_graph)
        flat.backward(self._scale(loss), keep_graph=keep_graph)
        # An overflow must not stay in what a method remembers: the gradient is zero, and the trainer skips the step.
        finite = torch.linalg.vector_norm(out).isfinite()
        self.overflowed |= ~finite
        return out.mul_(finite / self._scale(torch.ones_like(loss))).nan_to_num_(0.0, 0.0, 0.0)

    def num_parameters(self, scope: Scope = Scope.all) -> int:
        return sum(parameter.numel() for parameter in self.engine.parameters(scope))

    def losses_after_step(
        self,
        view: ViewKind,
        lr: float,
        reference_proposals: Proposals = Proposals.SAMPLED,
        *,
        loss: Tensor | None = None,
        images: int | None = None,
        draws: int = 0,
    ) -> LossTable:
        parameters = self.engine.parameters(Scope.all)
        gradient = self.gradient(self._table(view).total() if loss is None else loss)
        held = [parameter.detach().clone() for parameter in parameters]
        moved = FlatGradient(parameters, gradient).views
        # `.data` leaves autograd's version counters alone: the view's graph is still trained on.
        torch._foreach_add_([parameter.data for parameter in parameters], moved, alpha=-lr)
        try:
            views = self._views(ViewKind.REFERENCE)[:images]
            with torch.no_grad():
                key = f"/{draws}" if draws else ""
                return self._pass(ViewKind.REFERENCE, views, reference_proposals, backbone_in_eval=True, draws=key)
        finally:
            _overwrite(parameters, held)

    def average(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():  # several ranks could not divide it, and one rank must say so too
            raise ValueError(f"step.average takes a tensor of floats, not of {value.dtype}: give it `value.double()`")
        return self.ranks.average(value)

    def log(self, name: str, value: float | Tensor) -> None:
        self.logged[name] = value.detach() if isinstance(value, Tensor) else value

    # ------------------------------------------------------------------------------------ after the decision

    def trained_table(self, selection: Selection) -> LossTable:
        """The losses that are trained on: each image's kept view, less the instances that are left out of it."""
        keep = selection.keep & self._has_pasted if self.any_pasted else self._has_pasted
        kept, rejected = bool(keep.any()), bool((self._has_pasted & ~keep).any())
        if not kept:
            self._commit(ViewKind.ORIGINAL)
            return self._table(ViewKind.ORIGINAL)
        table = self._selected(selection, keep)
        if not rejected:
            self._commit(ViewKind.AUGMENTED)
            return table
        self._commit(ViewKind.AUGMENTED, ViewKind.ORIGINAL)
        return table.where(keep, self._table(ViewKind.ORIGINAL))

    def _selected(self, selection: Selection, keep: Tensor) -> LossTable:
        """The augmented view's losses of what a selection says of its pasted instances and kept images."""
        table = self._table(ViewKind.AUGMENTED)
        if selection.without_pasted:
            table = table.without(self._instances.pasted, selection.without_pasted)
        counted, weight = selection.instances, selection.weight
        if counted is not None:
            counted = counted | ~self._instances.pasted
        if weight is not None and weight.dim() == 2:
            weight = torch.where(self._instances.pasted, weight, 1.0)
        elif weight is not None:
            weight = torch.where(keep, weight, 1.0)
        return table if counted is None and weight is None else table.selected(counted, weight)

    def _commit(self, *views: ViewKind) -> None:
        for view in views:
            self._table(view)
        if self._statistics:
            after = [self._statistics_after[view] for view in views]
            _overwrite(self._statistics, [_mean(parts) for parts in zip(*after, strict=True)])

    def batch_losses(self, table: LossTable, counts: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every loss of the batch, over normalisers that ranks share where they must: `counts`, where they are known.

        The one collective of the forward side; every rank calls it once per step, whatever it decided.
        """
        shared = [name for name, loss in table.losses.items() if loss.across_ranks]
        if counts is None and shared:
            mean = self.ranks.average(torch.stack([table.losses[name].count.sum().float() for name in shared]))
            counts = dict(zip(shared, mean.unbind(), strict=True))
        return {name: table.batch(name, (counts or {}).get(name)) for name in table.losses}

    def known_gradient(self, selection: Selection) -> Tensor | None:
        """The gradient that a selection brings, where every rank's does; every rank asks.

        The normalisers that ranks share hold for all of them or for none.
        """
        return None if self.ranks.any(selection.gradient is None) else selection.gradient

    def share_statistics(self) -> None:
        """Batch norm's running statistics become their mean over ranks, so that all ranks hold one detector."""
        moving = [s for s in self._statistics if s.is_floating_point()]
        if self.ranks.world > 1 and moving:
            mean = self.ranks.average_(torch.cat([s.flatten() for s in moving]))
            parts = mean.split([s.numel() for s in moving])
            _overwrite(moving, [part.view_as(s) for part, s in zip(parts, moving, strict=True)])


class StatisticsOfParts:
    """Batch norm's running statistics over parts of a batch that pass in turn: each part starts from the first ones,
    and in the end they are the mean, as over ranks."""

    def __init__(self, module: nn.Module) -> None:
        self._statistics = _running_statistics(module)
        self._first = [buffer.clone() for buffer in self._statistics]
        self._after: list[list[Tensor]] = []

    def part_ended(self) -> None:
        self._after.append([buffer.clone() for buffer in self._statistics])
        _overwrite(self._statistics, self._first)

    def average(self) -> None:
        _overwrite(self._statistics, [_mean(parts) for parts in zip(*self._after, strict=True)])


def _running_statistics(module: nn.Module) -> list[Tensor]:
    """Of batch norm, and Seesaw loss's counts of classes."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    counts = [buffer for name, buffer in module.named_buffers() if name.endswith("cum_samples")]
    return [*(buffer for norm in norms for buffer in norm.buffers(recurse=False)), *counts]


def _mean(tensors: tuple[Tensor, ...]) -> Tensor:
    """Of statistics; counts of batches are equal among views."""
    return torch.stack(tensors).mean(0) if tensors[0].is_floating_point() else tensors[0]


def _overwrite(tensors: list[Tensor] | list[nn.Parameter], values: list[Tensor]) -> None:
    """In place and unseen by autograd: batch norm saves its running statistics, and copying bumps their version."""
    if tensors:
        torch._foreach_copy_([tensor.data for tensor in tensors], values)
