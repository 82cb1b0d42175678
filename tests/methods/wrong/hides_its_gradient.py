# a Selection.gradient that is never taken
from dataclasses import dataclass

import torch

from methods.contract import Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("hides_its_gradient")
@dataclass
class HidesItsGradient(PoolPasting):
    """Wrong."""

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED, grad=True).total()
        return Selection(torch.ones_like(step.has_pasted), gradient=step.gradient(loss))
