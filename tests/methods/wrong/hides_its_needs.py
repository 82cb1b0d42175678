# needs INSTANCE_CONFIDENCE of the engine and does not say so
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("hides_its_needs")
@dataclass
class HidesItsNeeds(PoolPasting):
    """Wrong."""

    def select(self, step):
        step.confidence()
        return super().select(step)
