# `prepare` draws from or seeds the global generator of NumPy
from dataclasses import dataclass

import numpy as np

from methods.registry import register
from methods.xpaste import PoolPasting


@register("weighs_by_chance")
@dataclass
class WeighsByChance(PoolPasting):
    """Wrong."""

    def prepare(self, pool, dataset, rng):
        self._weight = np.random.rand(len(pool))
        return pool
