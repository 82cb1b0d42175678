# `select` makes an unseeded generator
from dataclasses import dataclass

import numpy as np
import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("selects_by_chance")
@dataclass
class SelectsByChance(PoolPasting):
    """Wrong."""

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        return Selection(torch.full_like(step.has_pasted, np.random.default_rng().random() < 0.5))
