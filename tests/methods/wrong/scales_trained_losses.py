# `step._tables`, which methods.contract.Step does not have
from dataclasses import dataclass

from methods.contract import ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("scales_trained_losses")
@dataclass
class ScalesTrainedLosses(PoolPasting):
    """Wrong."""

    def select(self, step):
        step.losses(ViewKind.AUGMENTED)
        for table in step._tables.values():
            for loss in table.losses.values():
                loss.sum.data.mul_(2)
        return super().select(step)
