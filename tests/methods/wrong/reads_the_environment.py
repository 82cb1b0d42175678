# `select` reads os.environ
import os
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("reads_the_environment")
@dataclass
class ReadsTheEnvironment(PoolPasting):
    """Wrong."""

    def select(self, step):
        limit = float(os.environ.get("LIMIT", 1))
        return Selection(torch.full_like(step.has_pasted, limit > 0), decided=step.any_pasted)
