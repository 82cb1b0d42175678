# `draw` draws from or seeds the global generator of NumPy
from dataclasses import dataclass

import numpy as np

from methods.contract import Draw
from methods.registry import register
from methods.xpaste import PoolPasting


@register("draws_by_the_global_generator")
@dataclass
class DrawsByTheGlobalGenerator(PoolPasting):
    """Wrong."""

    def draw(self, image, pool, rng):
        return Draw(rows=np.random.randint(0, max(len(pool), 1), 3).astype(np.int64))
