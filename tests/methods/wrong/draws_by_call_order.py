# `draw` depends on the draws before it
from dataclasses import dataclass

import numpy as np

from methods.contract import Draw
from methods.registry import register
from methods.xpaste import PoolPasting


@register("draws_by_call_order")
@dataclass
class DrawsByCallOrder(PoolPasting):
    """Wrong."""

    def prepare(self, pool, dataset, rng):
        self._next = 0
        return pool

    def draw(self, image, pool, rng):
        self._next += 1
        return Draw(rows=np.array([self._next % len(pool)])) if len(pool) else Draw()
