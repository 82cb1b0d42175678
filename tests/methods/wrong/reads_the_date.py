# `select` reads the clock
import datetime
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("reads_the_date")
@dataclass
class ReadsTheDate(PoolPasting):
    """Wrong."""

    def select(self, step):
        late = datetime.datetime.now().hour > 25
        return Selection(torch.full_like(step.has_pasted, not late), decided=step.any_pasted)
