# `select` writes to what `step.losses` gave.*Selection.weight
from dataclasses import dataclass

from methods.contract import ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("scales_losses")
@dataclass
class ScalesLosses(PoolPasting):
    """Wrong."""

    def select(self, step):
        for loss in step.losses(ViewKind.AUGMENTED).losses.values():
            loss.sum.mul_(2)
        return super().select(step)
