# `select` draws from or seeds the global generator of torch
from dataclasses import dataclass

import torch

from methods.registry import register
from methods.xpaste import PoolPasting


@register("seeds_by_torch_seed")
@dataclass
class SeedsByTorchSeed(PoolPasting):
    """Wrong."""

    def select(self, step):
        torch.seed()
        return super().select(step)
