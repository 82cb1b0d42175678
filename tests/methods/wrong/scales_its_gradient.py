# Selection.gradient is 2 times the gradient of what is trained on
from dataclasses import dataclass

import torch

from methods.contract import Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("scales_its_gradient")
@dataclass
class ScalesItsGradient(PoolPasting):
    """Wrong."""

    def brings_gradient(self):
        return True

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED, grad=True).total()
        keep = torch.ones_like(step.has_pasted)
        return Selection(keep, gradient=2 * step.gradient(loss))
