# one rank calls `step.average` and the other does not
from dataclasses import dataclass

import torch

from methods.registry import register
from methods.xpaste import PoolPasting


@register("averages_where_something_was_pasted")
@dataclass
class AveragesWhereSomethingWasPasted(PoolPasting):
    """Wrong."""

    def select(self, step):
        if step.any_pasted:
            step.average(torch.zeros((), device=step.has_pasted.device))
        return super().select(step)
