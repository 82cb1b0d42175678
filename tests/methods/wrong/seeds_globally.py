# `start` draws from or seeds the global generator of torch
from dataclasses import dataclass

import torch

from methods.registry import register
from methods.xpaste import PoolPasting


@register("seeds_globally")
@dataclass
class SeedsGlobally(PoolPasting):
    """Wrong."""

    def start(self, start):
        torch.manual_seed(0)
