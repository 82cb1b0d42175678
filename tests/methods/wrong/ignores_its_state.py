# after `load_state_dict` at step 3
from dataclasses import dataclass

import torch

from methods.contract import Selection
from methods.registry import register
from methods.xpaste import PoolPasting


@register("ignores_its_state")
@dataclass
class IgnoresItsState(PoolPasting):
    """Wrong."""

    def start(self, start):
        self._count = 0

    def select(self, step):
        if not step.any_pasted:
            return super().select(step)
        self._count += 1
        return Selection(torch.full_like(step.has_pasted, self._count % 4 != 0))

    def state_dict(self):
        return {"count": self._count}

    def load_state_dict(self, state):
        pass
