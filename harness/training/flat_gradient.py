"""Gradients of all parameters in one flat buffer, so that a step clips, reduces and compares with single operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlatGradient:
    """Views of one float32 buffer (P,) that stand in as the parameters' `.grad` during a backward pass.

    Autograd adds into an existing `.grad` in place, so nothing is concatenated or copied.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], buffer: Tensor | None = None) -> None:
        self.parameters = list(parameters)
        self.length = sum(parameter.numel() for parameter in self.parameters)
        device = self.parameters[0].device
        self.buffer = torch.zeros(self.length, device=device) if buffer is None else buffer
        parts = self.buffer.split([parameter.numel() for parameter in self.parameters])
        # In the parameter's own memory order (channels last, for one), which autograd adds into fastest.
        self.views = [
            part.as_strided(parameter.size(), parameter.stride())
            for part, parameter in zip(parts, self.parameters, strict=True)
        ]

    def attach(self) -> None:
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def backward(self, loss: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Fills the buffer with the gradient of a scalar; parameters that it does not depend on get zeros."""
        self.buffer.zero_()
        return self.add(loss, keep_graph=keep_graph)

    def add(self, loss: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Adds the gradient of a scalar to what the buffer holds."""
        held = [parameter.grad for parameter in self.parameters]
        self.attach()
        loss.backward(inputs=self.parameters, retain_graph=keep_graph)
        for parameter, grad in zip(self.parameters, held, strict=True):
            parameter.grad = grad
        return self.buffer
