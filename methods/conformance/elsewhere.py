"""A GPU without one: what a method makes without a device lies on the host, and the step's tensors elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from methods.conformance.faults import Fault

INDEXING = {Tensor.__getitem__, Tensor.__setitem__}  # which take indices from the host
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
        moved = _names_a_device(func, args, kwargs)
        if not moved and all(held):
            self._host |= {id(leaf): leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)}
        return made


def _names_a_device(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if kwargs.get("device") is not None:
        return True
    if func in (Tensor.to, Tensor.type_as):
        return any(isinstance(each, str | torch.device | Tensor) for each in args[1:])
    return func in (Tensor.cuda,)
