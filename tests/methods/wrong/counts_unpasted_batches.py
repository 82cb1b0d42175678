# a batch in which nothing was pasted counts in no acceptance rate
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("counts_unpasted_batches")
@dataclass
class CountsUnpastedBatches(PoolPasting):
    """Wrong."""

    def select(self, step):
        return Selection(keep=torch.ones_like(step.has_pasted))
