"""The parts of BSGAL's decision: the cache of reference gradients, products with it, and running windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 22  # elements that are widened at a time


class GradientCache:
    """A running mean of flat gradients (P,): momentum m as G ← m·G + (1−m)·g from zero, or the plain average.

    Source: BSGAL (2406.02435), section 3.3.
    """

    def __init__(self, size: int, momentum: float | None, dtype: torch.dtype, device: torch.device) -> None:
        self.mean = torch.zeros(size, dtype=dtype, device=device)
        self.momentum = momentum  # None for the average of all
        self.updates = 0

    def update(self, gradient: Tensor) -> None:
        keep = self.updates / (self.updates + 1) if self.momentum is None else self.momentum
        self.mean.mul_(keep).add_(gradient, alpha=1 - keep)
        self.updates += 1

    def norm(self) -> Tensor:
        wide = torch.promote_types(self.mean.dtype, torch.float32)
        norm: Tensor = torch.linalg.vector_norm(self.mean, dtype=wide)
        return norm

    def product(self, gradient: Tensor) -> Tensor:
        """Inner product with a gradient (P,), a scalar on the device."""
        if self.mean.dtype == gradient.dtype:
            return torch.dot(self.mean, gradient)
        wide = torch.promote_types(self.mean.dtype, gradient.dtype)
        pairs = zip(self.mean.split(CHUNK), gradient.split(CHUNK), strict=True)
        return torch.stack([torch.dot(mean.to(wide), part.to(wide)) for mean, part in pairs]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.updates = int(state["updates"])


class RunningWindow:
    """The last `size` figures of a run, kept on the device; empty places are ignored."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.values = torch.zeros(size, device=device, dtype=torch.float32)
        self.seen = 0

    def add(self, value: Tensor) -> None:
        """Takes a scalar in, in place of the oldest one when full."""
        self.values[self.seen % len(self.values)] = value.detach()
        self.seen += 1

    def quantile(self, share: float) -> Tensor:
        """The value that `share` of the window lies below, linear between neighbours; 0 while the window is empty."""
        filled = self.values[: min(self.seen, len(self.values))]
        return torch.quantile(filled, share) if len(filled) else self.values.new_zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.copy_(state["values"])
        self.seen = int(state["seen"])
