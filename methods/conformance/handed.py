"""The step as a method may use it: the contract's members alone, its own needs alone, and nothing written to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.utils._pytree import tree_leaves

from harness.training.step import TrainingStep
from methods.conformance.elsewhere import HostTensors
from methods.conformance.faults import Fault
from methods.contract import LossTable, Need, Proposals, Step

MEMBERS = frozenset(name for name in {*vars(Step), *Step.__annotations__} if not name.startswith("_"))
OWN = frozenset({"gradient", "average"})  # they may give back a tensor of the method's own
PARTS = {
    "pasted": Need.PASTED_ATTRIBUTION,
    "attribution": Need.INSTANCE_ATTRIBUTION,
    "last_layer": Need.LAST_LAYER,
}


class HandedStep:
    """What `select` gets. Raises Fault, through its ledger, for what is no member of `methods.contract.Step`."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        return _ledgers[self].get(name)

    def __setattr__(self, name: str, value: object) -> None:
        _ledgers[self].refuse(f"`select` sets `step.{name}`: keep state in `self`, made in `start`")


class Ledger:
    """What was handed out of a step, and the first thing that was done wrong with it."""

    def __init__(self, step: TrainingStep, needs: frozenset[Need], elsewhere: HostTensors | None = None) -> None:
        self._step, self._needs, self._elsewhere = step, needs, elsewhere
        self._handed: list[tuple[str, Tensor, int]] = []
        self._fault: Fault | None = None
        self.averages = 0

    def handed(self) -> Any:
        """The step to hand to a method."""
        step = HandedStep()
        _ledgers[step] = self
        return step

    def conclude(self) -> None:
        """Raises Fault for what the method did, though it may have caught it itself."""
        if self._fault is not None:
            raise self._fault
        for what, tensor, version in self._handed:
            if tensor._version != version:
                advice = "`Selection.weight` weights losses" if "losses" in what else "make a tensor of your own"
                raise Fault(f"`select` writes to what `step.{what}` gave, a copy that changes nothing: {advice}")

    def refuse(self, text: str) -> None:
        self._fault = self._fault or Fault(text)
        raise self._fault

    def get(self, name: str) -> Any:
        if name not in MEMBERS:
            self.refuse(
                f"`select` takes `step.{name}`, which methods.contract.Step does not have: "
                "another engine or the next version would not give it"
            )
        with outside(self._elsewhere):
            member = getattr(self._step, name)
        return self._watched(name, member) if callable(member) and name != "rng" else self._noted(name, member)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if name == "confidence":
                self._need(Need.INSTANCE_CONFIDENCE)
            if Proposals.GROUND_TRUTH in (*args, *kwargs.values()):
                self._need(Need.GROUND_TRUTH_PROPOSALS)
            if self._elsewhere is not None and name != "log":
                self._elsewhere.refuse([*args, *kwargs.values()])
            self.averages += name == "average"
            with outside(self._elsewhere):
                found = call(*args, **kwargs)
                return found if name in OWN else self._noted(name, self._limited(found))

        return called

    def _need(self, need: Need) -> None:
        if need not in self._needs:
            self.refuse(
                f"`select` needs {need.name} of the engine and does not say so: declare it in `needs` or `required()`"
            )

    def _limited(self, found: Any) -> Any:
        """A table with what the method's needs ask for, as an engine that offers no more would give it."""
        if not isinstance(found, LossTable):
            return found
        unasked: dict[str, Any] = {part: None for part, need in PARTS.items() if need not in self._needs}
        return LossTable({name: replace(loss, **unasked) for name, loss in found.losses.items()})

    def _noted(self, what: str, value: Any) -> Any:
        for tensor in _tensors(value):
            self._handed.append((what, tensor, tensor._version))
        return value


_ledgers: WeakKeyDictionary[HandedStep, Ledger] = WeakKeyDictionary()


@contextmanager
def outside(elsewhere: HostTensors | None) -> Iterator[None]:
    """While the harness computes, nothing that a method does is watched."""
    profile = sys.getprofile()
    if profile is not None:  # else left alone: Python 3.11 fails when two threads, here ranks, set theirs at once
        sys.setprofile(None)
    paused, other = elsewhere, elsewhere is not None and elsewhere.paused
    if paused is not None:
        paused.paused = True
    try:
        yield
    finally:
        if paused is not None:
            paused.paused = other
        if profile is not None:
            sys.setprofile(profile)


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in a table, a dataclass or a value itself."""
    if isinstance(value, LossTable):
        return [tensor for loss in value.losses.values() for tensor in _tensors(loss)]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for item in fields(value) for tensor in _tensors(getattr(value, item.name))]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
