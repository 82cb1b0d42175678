# a tensor with its graph outlives the step
from dataclasses import dataclass

from methods.contract import ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("keeps_a_graph")
@dataclass
class KeepsAGraph(PoolPasting):
    """Wrong."""

    def select(self, step):
        self._last = step.losses(ViewKind.ORIGINAL, grad=True).total()
        return super().select(step)
