"""A core-set of the pool: instances that are spread over the backbone's feature space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods import filters
from methods.contract import DatasetFacts, Pool
from methods.registry import register
from methods.xpaste import PoolPasting


@register("coreset")
@dataclass
class Coreset(PoolPasting):
    """Pastes a share of each category that covers the category, by k-center greedy on features of the backbone.

    embeddings: an .npy (N, D) with a row for each row of the pool, as `harness embed` writes it; NaN for an instance
    without features, which is never chosen. Each category begins with the instance nearest to its mean; the next is
    always the one farthest from all chosen ones. Distances are Euclidean, between unit vectors. Without embeddings, the
    share is chosen at random, as a control.
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
        if self.embeddings is None:
            taken = np.flatnonzero(filters.top_share(pool.categories, rng.random(len(pool)), self.share))
        else:
            taken = self._centers(pool, embeddings(Path(self.embeddings), pool))
        return super().prepare(pool.subset(taken), dataset, rng)

    def _centers(self, pool: Pool, features: np.ndarray) -> np.ndarray:
        """(M,) int64 rows, ascending, at least one of every category that has features."""
        known = ~np.isnan(features[:, 0])
        taken = []
        for category in pool.present_categories:
            rows = pool.rows_of(int(category))
            rows = rows[known[rows]]
            if len(rows):
                own = features[rows].astype(np.float32)
                own /= np.linalg.norm(own, axis=1, keepdims=True).clip(1e-12)
                taken.append(rows[k_center(own, max(1, int(np.ceil(self.share * len(rows) - 1e-9))))])
        if not taken:
            raise ValueError(f"{self.embeddings} has features of no instance of the pool")
        return np.sort(np.concatenate(taken))


def embeddings(path: Path, pool: Pool) -> np.ndarray:
    """(N, D) a row for each of the pool's rows, memory-mapped, since they may be larger than the memory.

    Raises ValueError for a file that is not such an array, or belongs to another pool.
    """
    try:
        features: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is not a NumPy array: {error}") from error
    if features.ndim != 2 or len(features) != len(pool):
        raise ValueError(
            f"{path} has the shape {features.shape}, and the pool has {len(pool)} instances: embeddings are of the "
            "pool as data.pool names it"
        )
    return features


def k_center(points: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64 indices of points (n, D), in the order in which the greedy rule chooses them.

    The first is nearest to the mean; each next one is farthest from those before. The first of several equals wins.
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
