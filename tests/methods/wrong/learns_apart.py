# `policy` differs between ranks
from dataclasses import dataclass

import numpy as np

from methods.contract import ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("learns_apart")
@dataclass
class LearnsApart(PoolPasting):
    """Wrong."""

    def start(self, start):
        self._sum = 0.0

    def select(self, step):
        self._sum += float(step.losses(ViewKind.AUGMENTED).total())
        return super().select(step)

    def policy(self):
        return np.array([self._sum])

    def draw(self, image, pool, rng, policy=None):
        return super().draw(image, pool, rng)

    def state_dict(self):
        return {"sum": self._sum}

    def load_state_dict(self, state):
        self._sum = state["sum"]
