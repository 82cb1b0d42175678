# `select` keeps state in keeps_state_in_a_module.SEEN
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting

SEEN: list = []


@register("keeps_state_in_a_module")
@dataclass
class KeepsStateInAModule(PoolPasting):
    """Wrong."""

    def select(self, step):
        SEEN.append(len(SEEN))
        return super().select(step)
