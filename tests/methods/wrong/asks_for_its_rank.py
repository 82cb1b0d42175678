# `select` asks torch.distributed
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("asks_for_its_rank")
@dataclass
class AsksForItsRank(PoolPasting):
    """Wrong."""

    def select(self, step):
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        return Selection(torch.full_like(step.has_pasted, first), decided=step.any_pasted)
