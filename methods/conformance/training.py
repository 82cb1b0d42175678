"""Checks of single steps: what a selection is made of, and on which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.training.step import TrainingStep
from methods.conformance.elsewhere import SENTENCE, HostTensors
from methods.conformance.faults import require
from methods.conformance.purity import Watch
from methods.conformance.tiny import TinyEngine
from methods.conformance.world import (
    IMAGES,
    fresh,
    prepared,
    selected,
    start_of,
    started,
    tiny_step,
    tiny_steps,
    train,
)
from methods.contract import Method, Need, Scope, Selection

SOME = 6  # steps

# Shapes that a selection's tensors may have; None means (n, G), those of `Step.instances`.
SHAPES: dict[str, list[tuple[int, ...] | None]] = {
    "contribution": [(), (IMAGES,), None],
    "threshold": [(), (IMAGES,), None],
    "instances": [None],
    "weight": [(IMAGES,), None],
}


def check_start(method: Method) -> None:
    method, pool = prepared(method)
    with Watch(method).hook("start"):
        method.start(start_of(pool))


def check_selection(method: Method) -> None:
    method = started(method)
    engine = TinyEngine()
    before = [p.clone() for p in engine.parameters(Scope.all)]
    watch = Watch(method)
    for step in tiny_steps(engine, 0, SOME):
        with watch.hook("select"):
            selection = selected(method, step)
        _check_keep(selection, step)
        _check_figures(selection, step)
        _check_needs(selection, method.required())
        now = step.engine.parameters(Scope.all)
        require(all(torch.equal(a, b) for a, b in zip(before, now, strict=True)), "`select` changed the weights")
        require(all(p.grad is None for p in now), "`select` left gradients in the parameters: take `step.gradient`")
        require(all(p.requires_grad for p in now), "`select` changed which parameters are trained")


def _check_keep(selection: Selection, step: TrainingStep) -> None:
    keep = selection.keep
    require(
        isinstance(keep, Tensor) and keep.dtype == torch.bool and keep.shape == (IMAGES,),
        f"Selection.keep is {_shown(keep)}, not ({IMAGES},) bool",
    )
    require(keep.device == step.device, f"Selection.keep is on {keep.device}, the step on {step.device}")
    require(isinstance(selection.decided, bool), "Selection.decided is not a bool")


def _check_figures(selection: Selection, step: TrainingStep) -> None:
    pasted = step.instances.pasted
    for name, shapes in SHAPES.items():
        value = getattr(selection, name)
        if value is None or (isinstance(value, float | int) and name == "threshold"):
            continue
        allowed = [tuple(pasted.shape) if shape is None else shape for shape in shapes]
        require(
            isinstance(value, Tensor) and tuple(value.shape) in allowed,
            f"Selection.{name} is {_shown(value)}, not of one of the shapes {allowed}: images, or images by instances",
        )
        require(not value.requires_grad, f"Selection.{name} holds a graph: detach it")
    instances, weight, contribution = selection.instances, selection.weight, selection.contribution
    require(instances is None or instances.dtype == torch.bool, "Selection.instances is not bool")
    if weight is not None:
        counted = weight[pasted] if weight.dim() == 2 else weight[step.has_pasted]
        require(weight.is_floating_point(), f"Selection.weight is {weight.dtype}, not float")
        require(counted.isfinite().all(), "Selection.weight is not finite")
        require((counted >= 0).all(), "Selection.weight is below 0: that would train away from what is pasted")
    if contribution is not None and step.any_pasted:
        _check_contribution(contribution, pasted, step)


def _check_contribution(contribution: Tensor, pasted: Tensor, step: TrainingStep) -> None:
    require(contribution.is_floating_point(), f"Selection.contribution is {contribution.dtype}, not float")
    if contribution.dim() == 2:
        figures = contribution[pasted]
        require(not figures.isinf().any(), "Selection.contribution is infinite for pasted instances")
        return
    figures = contribution[step.has_pasted] if contribution.dim() else contribution
    require(
        figures.isfinite().all(),
        "Selection.contribution is NaN or infinite where something was pasted: use None for no value",
    )


def _check_needs(selection: Selection, needs: frozenset[Need]) -> None:
    weighted = selection.weight is not None and selection.weight.dim() == 2
    single = weighted or selection.instances is not None or bool(selection.without_pasted)
    require(
        not single or Need.INSTANCE_ATTRIBUTION in needs,
        "`select` needs INSTANCE_ATTRIBUTION of the engine and does not say so: declare it in `needs` or `required()`",
    )


def check_device(method: Method) -> None:
    """As if the step's tensors lay on a GPU."""
    method, pool = prepared(method)
    elsewhere = HostTensors("select")
    with elsewhere:
        elsewhere.hook = "start"
        method.start(start_of(pool))
        elsewhere.hook = "select"
        for step in tiny_steps(TinyEngine(), 0, SOME):
            elsewhere.paused = True
            step.instances  # noqa: B018  made here, in the harness's name
            elsewhere.paused = False
            selection = selected(method, step, elsewhere)
            for name in ("keep", "instances", "weight", "gradient"):
                require(not elsewhere.on_host(getattr(selection, name)), f"`select` {SENTENCE} (Selection.{name})")
            elsewhere.paused = True
            step.trained_table(selection)
            elsewhere.paused = False


def check_batch_without_pasted_instances(method: Method) -> None:
    method = started(method)
    engine = TinyEngine()
    for iteration in (0, 1, SOME):
        step = tiny_step(engine, iteration, pasted=() if iteration < 2 else (1,))
        selection = selected(method, step)
        if iteration == SOME:
            break
        require(bool(selection.keep.all()), "a batch in which nothing was pasted is trained as it is: keep all")
        require(
            not selection.decided, "a batch in which nothing was pasted counts in no acceptance rate: decided=False"
        )
        step.trained_table(selection)


def check_step_without_references(method: Method) -> None:
    method = started(method)
    engine = TinyEngine()
    for iteration, references in ((0, 0), (1, 0), (2, 2), (3, 0)):
        step = tiny_step(engine, iteration, references=references)
        step.trained_table(selected(method, step))


def cost_of_step(method: Method) -> dict[str, float]:
    """Mean forward and backward passes of a step, the training pass included; a plain step has 1 and 1."""
    method = started(fresh(method))
    engine = TinyEngine()
    backward = 0
    for step in tiny_steps(engine, 0, SOME):
        take = step.gradient

        def counted(*args: Any, take: Callable[..., Tensor] = take, **kwargs: Any) -> Tensor:
            nonlocal backward
            backward += 1
            return take(*args, **kwargs)

        step.gradient = counted  # type: ignore[method-assign]
        selection = train(method, step)
        backward += selection.gradient is None
    return {"forward": engine.passes / SOME, "backward": backward / SOME}


def _shown(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)
