# Selection.gradient is not the gradient of what is trained on
from dataclasses import dataclass

import torch

from methods.contract import LossKind, Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("gives_a_part_of_the_gradient")
@dataclass
class GivesAPartOfTheGradient(PoolPasting):
    """Wrong."""

    def brings_gradient(self):
        return True

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED, grad=True).total(LossKind.CLASSIFICATION)
        return Selection(torch.ones_like(step.has_pasted), gradient=step.gradient(loss))
