# `step.engine`, which methods.contract.Step does not have
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("takes_the_engine")
@dataclass
class TakesTheEngine(PoolPasting):
    """Wrong."""

    def select(self, step):
        step.engine.module.box.bias.data += 1
        return super().select(step)
