# `select` makes a tensor on the host
from dataclasses import dataclass

import torch

from methods.contract import Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("makes_tensors_on_the_host")
@dataclass
class MakesTensorsOnTheHost(PoolPasting):
    """Wrong."""

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED).per_image()
        return Selection((loss < torch.full((len(loss),), 3.0)) | ~step.has_pasted)
