# after `load_state_dict` at step 40
from dataclasses import dataclass

import torch

from methods.contract import Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("forgets_its_warm_up")
@dataclass
class ForgetsItsWarmUp(PoolPasting):
    """Wrong."""

    def start(self, start):
        self._count = 0

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        self._count += 1
        loss = step.losses(ViewKind.AUGMENTED).per_image()
        if self._count <= 32:
            return Selection(torch.ones_like(step.has_pasted), decided=False)
        return Selection(loss <= loss[step.has_pasted].mean(), -loss)
