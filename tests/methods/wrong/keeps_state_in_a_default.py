# `draw` keeps state in the defaults of .*draw
from dataclasses import dataclass

from methods.contract import Draw
from methods.registry import register
from methods.xpaste import PoolPasting


@register("keeps_state_in_a_default")
@dataclass
class KeepsStateInADefault(PoolPasting):
    """Wrong."""

    def draw(self, image, pool, rng, seen=[]):
        seen.append(image.index)
        return Draw(rows=rng.integers(0, len(pool), 2)) if len(pool) else Draw()
