# Selection.weight is below 0
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("weighs_below_nothing")
@dataclass
class WeighsBelowNothing(PoolPasting):
    """Wrong."""

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        return Selection(
            torch.ones_like(step.has_pasted), weight=-torch.ones_like(step.has_pasted, dtype=torch.float32)
        )
