# `select` reads the clock
from dataclasses import dataclass
from time import perf_counter as clock

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("reads_the_clock")
@dataclass
class ReadsTheClock(PoolPasting):
    """Wrong."""

    def select(self, step):
        return Selection(torch.full_like(step.has_pasted, clock() > 0), decided=step.any_pasted)
