# `select` changes an option
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("changes_an_option")
@dataclass
class ChangesAnOption(PoolPasting):
    """Wrong."""

    def select(self, step):
        self.max_samples += 1
        return super().select(step)
