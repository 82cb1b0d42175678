"""The filtering baseline of the BSGAL paper: the pool's best instances by CLIP score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods import filters
from methods.contract import DatasetFacts, Pool
from methods.registry import register
from methods.xpaste import PoolPasting


@register("clip_filter")
@dataclass
class ClipFilter(PoolPasting):
    """Pastes the top share of each category by CLIP score, or by another column of the pool."""

    paper = "BSGAL, arXiv 2406.02435, filtering baseline"

    share: float = 0.5
    column: str = "clip_score"

    def validate(self) -> None:
        super().validate()
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, and must lie in (0, 1]")

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = super().prepare(pool, dataset, rng)
        if len(pool) and self.column not in pool.columns:
            raise ValueError(f"clip_filter ranks by the column {self.column}, and the pool has {_listed(pool)}")
        return pool.subset(np.flatnonzero(filters.top_share(pool, self.column, self.share))) if len(pool) else pool


def _listed(pool: Pool) -> str:
    return ", ".join(pool.columns) or "no columns"
