# `start` changes torch's default dtype
from dataclasses import dataclass

import torch

from methods.registry import register
from methods.xpaste import PoolPasting


@register("changes_the_default_dtype")
@dataclass
class ChangesTheDefaultDtype(PoolPasting):
    """Wrong."""

    def start(self, start):
        torch.set_default_dtype(torch.float64)
