# self._seen grows with every step
from dataclasses import dataclass

from methods.contract import ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("grows")
@dataclass
class Grows(PoolPasting):
    """Wrong."""

    def start(self, start):
        self._seen = []

    def select(self, step):
        self._seen.append(float(step.losses(ViewKind.AUGMENTED).total()))
        return super().select(step)
