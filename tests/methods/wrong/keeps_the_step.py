# the step outlives itself
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("keeps_the_step")
@dataclass
class KeepsTheStep(PoolPasting):
    """Wrong."""

    def select(self, step):
        self._step = step
        return super().select(step)
