# `prepare` makes an unseeded generator
from dataclasses import dataclass

import numpy as np

from methods.registry import register
from methods.xpaste import PoolPasting


@register("prepares_by_chance")
@dataclass
class PreparesByChance(PoolPasting):
    """Wrong."""

    def prepare(self, pool, dataset, rng):
        return pool.subset(np.sort(np.random.default_rng().permutation(len(pool))[:20]))
