# `draw` reads self._weight, which loader workers do not have
from dataclasses import dataclass

import numpy as np

from methods.contract import Draw
from methods.registry import register
from methods.xpaste import PoolPasting


@register("draws_from_what_start_made")
@dataclass
class DrawsFromWhatStartMade(PoolPasting):
    """Wrong."""

    def start(self, start):
        self._weight = np.ones(len(start.pool)) / len(start.pool)

    def draw(self, image, pool, rng):
        return Draw(rows=rng.choice(len(pool), 2, p=self._weight)) if len(pool) else Draw()
