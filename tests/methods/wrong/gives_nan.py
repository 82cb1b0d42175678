# Selection.contribution is NaN or infinite
from dataclasses import dataclass

import torch

from methods.contract import Selection, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("gives_nan")
@dataclass
class GivesNan(PoolPasting):
    """Wrong."""

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED).per_image()
        return Selection(torch.ones_like(step.has_pasted), contribution=loss / 0 * 0)
