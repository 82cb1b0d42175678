# `select` keeps state in class .*\.count
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("keeps_state_in_its_class")
@dataclass
class KeepsStateInItsClass(PoolPasting):
    """Wrong."""

    count = 0

    def select(self, step):
        type(self).count = type(self).count + 1
        return super().select(step)
