# read-only
from dataclasses import dataclass

from methods.registry import register
from methods.xpaste import PoolPasting


@register("writes_to_the_pool")
@dataclass
class WritesToThePool(PoolPasting):
    """Wrong."""

    def prepare(self, pool, dataset, rng):
        pool.categories[0] = 0
        return pool
