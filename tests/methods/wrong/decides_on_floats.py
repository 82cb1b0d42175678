# Selection.keep is \(4,\) torch.float32, not \(4,\) bool
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("decides_on_floats")
@dataclass
class DecidesOnFloats(PoolPasting):
    """Wrong."""

    def select(self, step):
        return Selection(keep=torch.ones(len(step.has_pasted), device=step.has_pasted.device))
