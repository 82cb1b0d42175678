# `select` makes a tensor on the host.*\(Selection.keep\)
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("decides_on_the_host")
@dataclass
class DecidesOnTheHost(PoolPasting):
    """Wrong."""

    def select(self, step):
        return Selection(torch.ones(len(step.has_pasted), dtype=torch.bool), decided=False)
