"""Recent values per category, for thresholds that move with the detector."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.contract import Instances


class CategoryWindows:
    """The last `size` values of every category, kept on the host."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: dict[int, deque[float]] = {}

    def add(self, category: int, value: float) -> None:
        """Adds a value, in place of the category's oldest one when full."""
        self._values.setdefault(category, deque(maxlen=self.size)).append(value)

    def seen(self, category: int) -> int:
        """The number of values held for the category."""
        return len(self._values.get(category, ()))

    def quantile(self, category: int, share: float) -> float:
        """The value that `share` (0..1) of the category's are below, linear between neighbours."""
        return float(np.quantile(list(self._values[category]), share))

    def rank(self, category: int, value: float) -> float:
        """The share of the category's values that are below a value, ties counting half: 0..1."""
        held = np.array(self._values[category])
        return float((held < value).mean() + 0.5 * (held == value).mean())

    def state_dict(self) -> dict[str, Any]:
        return {str(category): list(values) for category, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values = {int(category): deque(values, maxlen=self.size) for category, values in state.items()}


class InstanceThresholds:
    """Thresholds for single pasted instances: quantiles of the last `window` values of their category, or of all.

    There is none before `warmup` values have been seen.
    """

    def __init__(self, window: int, warmup: int, per_category: bool) -> None:
        self.warmup, self.per_category = warmup, per_category
        self._windows = CategoryWindows(window)

    def judge(self, instances: Instances, values: Tensor, share: float) -> Tensor:
        """(n, G) what values (n, G) of pasted instances have to reach: the value that `share` (0..1) are below.

        NaN elsewhere, and if there is none yet. The values other than NaN are then added: all are judged by what
        came before the step, so their order within it does not matter.
        """
        threshold = torch.full(values.shape, math.nan, dtype=values.dtype, device="cpu")  # filled one by one
        place = (instances.pasted & ~values.isnan()).nonzero()
        at = tuple(place.T)
        labels = instances.labels[at].tolist() if self.per_category else [0] * len(place)
        for (image, column), label in zip(place.tolist(), labels, strict=True):
            if self._windows.seen(label) >= self.warmup:
                threshold[image, column] = self._windows.quantile(label, share)
        for label, value in zip(labels, values[at].tolist(), strict=True):
            self._windows.add(label, value)
        return threshold.to(values.device)

    def state_dict(self) -> dict[str, Any]:
        return self._windows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows.load_state_dict(state)


def reaching(values: Tensor, threshold: Tensor) -> Tensor:
    """(n, G) bool: where values reach their threshold; true if there is none."""
    return threshold.isnan() | (values >= threshold)
