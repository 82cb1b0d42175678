"""A core-set of the pool: instances that lie spread over what the backbone sees in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.contract import DatasetFacts, Pool
from methods.registry import register
from methods.xpaste import PoolPasting


@register("coreset")
@dataclass
class Coreset(PoolPasting):
    """Pastes a share of each category that covers the rest of it: k-center greedy on features of the backbone.

    embeddings: an .npy (N, D) with a line for each row of the pool, as `harness embed` leaves it; NaN for an instance
    without features, which is never taken. Each category begins with the instance nearest to its mean; the next one is
    always that which lies farthest from all taken ones. Distances are Euclidean, between unit vectors.
    """

    # Greedy 2-approximation of k-center: Gonzalez, 1985 (Theoretical Computer Science 38); Sener & Savarese start from
    # the labelled images, and a pool has none.
    paper = "Sener & Savarese, Core-Set, arXiv 1708.00489, ICLR 2018"

    share: float = 0.25
    embeddings: str | None = None

    def validate(self) -> None:
        super().validate()
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, and must lie in (0, 1]")

    def files(self) -> dict[str, Path]:
        return {"embeddings": Path(self.embeddings)} if self.embeddings else {}

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        if len(pool) == 0:
            return pool
        features = self._features(pool)
        known = ~np.isnan(features[:, 0])
        taken = [self._centers(features, rows[known[rows]]) for rows in map(pool.rows_of, pool.present_categories)]
        return super().prepare(pool.subset(np.sort(np.concatenate(taken))), dataset, rng)

    def _features(self, pool: Pool) -> np.ndarray:
        """(N, D), read where they lie: a pool's may be larger than the memory."""
        if self.embeddings is None:
            raise ValueError("coreset needs embeddings, an .npy as `harness embed` leaves it: method.embeddings=FILE")
        try:
            features: np.ndarray = np.load(self.embeddings, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{self.embeddings} is no array of NumPy's: {error}") from error
        if features.ndim != 2 or len(features) != len(pool):
            raise ValueError(
                f"{self.embeddings} has the shape {features.shape}, and the pool has {len(pool)} instances: "
                "embeddings are of the pool as data.pool names it"
            )
        return features

    def _centers(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Those of a category's rows that are taken, at least one of any."""
        if len(rows) == 0:
            return rows
        own = features[rows].astype(np.float32)
        own /= np.linalg.norm(own, axis=1, keepdims=True).clip(1e-12)
        centers: np.ndarray = rows[k_center(own, max(1, int(np.ceil(self.share * len(rows) - 1e-9))))]
        return centers


def k_center(points: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64 indices of points (n, D), in the order in which the greedy rule takes them.

    The first is nearest to the mean; each next one lies farthest from those before. Of equals the first one is taken.
    """
    taken = [int(_distances(points, points.mean(0)).argmin())]
    nearest = _distances(points, points[taken[0]])
    while len(taken) < count:
        nearest[taken[-1]] = -1  # among equal points none is taken twice
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distances(points, points[taken[-1]]))
    return np.array(taken, np.int64)


def _distances(points: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(n,) squared."""
    squared: np.ndarray = np.square(points - center).sum(1)
    return squared
