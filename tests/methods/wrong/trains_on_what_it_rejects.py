# would train on what its log calls rejected
from dataclasses import dataclass

import torch

from methods.contract import Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("trains_on_what_it_rejects")
@dataclass
class TrainsOnWhatItRejects(PoolPasting):
    """Wrong."""

    def brings_gradient(self):
        return True

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED, grad=True).total()
        keep = torch.zeros_like(step.has_pasted)
        return Selection(keep, contribution=-loss.detach(), gradient=step.gradient(loss))
