# `select` writes to what `step.has_pasted` gave, a copy
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("writes_to_the_step")
@dataclass
class WritesToTheStep(PoolPasting):
    """Wrong."""

    def select(self, step):
        step.has_pasted.zero_()
        return super().select(step)
