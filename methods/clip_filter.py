"""The filtering baseline of the BSGAL paper: the pool's best instances by CLIP score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods import filters
from methods.contract import DatasetFacts, Pool
from methods.registry import register
from methods.xpaste import PoolPasting


@register("clip_filter")
@dataclass
class ClipFilter(PoolPasting):
    """Pastes the top share of each category by CLIP score, by another column of the pool, or by a scored list.

    scores: a ranking from `harness score`, to use in place of a column; instances that are not in it come last.
    """

    paper = "BSGAL, arXiv 2406.02435, filtering baseline"

    share: float = 0.5
    column: str = "clip_score"
    scores: str | None = None

    def validate(self) -> None:
        super().validate()
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, and must lie in (0, 1]")

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = super().prepare(pool, dataset, rng)
        if len(pool) == 0:
            return pool
        if self.scores is not None:
            values = filters.listed_scores(Path(self.scores), pool)
        elif self.column in pool.columns:
            values = np.asarray(pool.column(self.column), np.float64)
        else:
            listed = ", ".join(pool.columns) or "no columns"
            raise ValueError(f"clip_filter ranks by the column {self.column}, and the pool has {listed}")
        return pool.subset(np.flatnonzero(filters.top_share(pool.categories, values, self.share)))

    def files(self) -> dict[str, Path]:
        return {"scores": Path(self.scores)} if self.scores else {}
