"""A GPU without one: what a method makes without a device lies on the host, and the step's tensors elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from methods.conformance.faults import Fault

INDEXING = {Tensor.__getitem__, Tensor.__setitem__}  # which take indices from the host
HOST = "cpu"  # by name: the step's own device is handed on as torch.device
SENTENCE = "makes a tensor on the host and uses it with the step's: give it `device=step.has_pasted.device`"


class HostTensors(TorchFunctionMode):
    """Remembers which tensors would lie on the host, and raises Fault where one is used with others.

    As on a GPU, scalars of the host mix with anything. `paused` while the harness itself computes.
    """

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.hook = hook
        self.paused = False
        self._host: dict[int, Tensor] = {}

    def __enter__(self) -> HostTensors:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._from_numpy = torch.from_numpy
        torch.from_numpy = self._taken_from_numpy  # type: ignore[assignment]  # which asks no mode
        return self

    def __exit__(self, *error: Any) -> None:
        torch.from_numpy = self._from_numpy
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _taken_from_numpy(self, array: np.ndarray) -> Tensor:
        made = self._from_numpy(array)
        if not self.paused:
            self._host[id(made)] = made
        return made

    def on_host(self, value: object) -> bool:
        return id(value) in self._host

    def refuse(self, values: Iterable[object]) -> None:
        """Raises Fault for a tensor of the host among what is handed to the harness."""
        if any(self.on_host(value) for value in values):
            raise Fault(f"`{self.hook}` {SENTENCE}")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        held = [self.on_host(tensor) for tensor in given]
        if func not in INDEXING and not all(held):
            self.refuse(tensor for tensor in given if tensor.dim())
        made = func(*args, **kwargs)
        place = _place_named(func, args, kwargs)
        if place == HOST and any(made is tensor for tensor in given):
            made = made.view_as(made)  # what is on the CPU already is not copied, and both would be taken for one
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and (place == HOST or (place is None and all(held))):
                self._host[id(leaf)] = leaf
            elif place is not None:
                self._host.pop(id(leaf), None)
        return made


def _place_named(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The device that a call names, if it names one: the host, or another one."""
    if func is Tensor.cpu:
        return HOST
    if func is Tensor.cuda:
        return "cuda"
    named = [kwargs["device"]] if kwargs.get("device") is not None else []
    if func is Tensor.to:
        named += [each for each in args[1:] if isinstance(each, str | torch.device | Tensor)]
    if not named:
        return None
    return HOST if named[0] == HOST and isinstance(named[0], str) else "cuda"
