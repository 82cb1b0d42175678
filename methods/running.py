"""Figures of the recent past by category, for thresholds that move with the detector."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np


class CategoryWindows:
    """The last `size` figures of every category, kept on the host."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: dict[int, deque[float]] = {}

    def add(self, category: int, value: float) -> None:
        """Takes a figure in, in place of the category's oldest one when full."""
        self._values.setdefault(category, deque(maxlen=self.size)).append(value)

    def seen(self, category: int) -> int:
        """How many figures of the category are held."""
        return len(self._values.get(category, ()))

    def quantile(self, category: int, share: float) -> float:
        """The figure that `share` (0..1) of the category's lie below, linear between neighbours."""
        return float(np.quantile(list(self._values[category]), share))

    def rank(self, category: int, value: float) -> float:
        """The share of the category's figures that lie below a value, ties counting half: 0..1."""
        held = np.array(self._values[category])
        return float((held < value).mean() + 0.5 * (held == value).mean())

    def state_dict(self) -> dict[str, Any]:
        return {str(category): list(values) for category, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values = {int(category): deque(values, maxlen=self.size) for category, values in state.items()}
