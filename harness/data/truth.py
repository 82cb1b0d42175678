"""The hidden truth of the embedded dataset's pools: what each instance really is. Methods never see it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from harness.config import DataConfig
from harness.data import sources
from methods.contract import Pool

CLEAN = "clean"


def kinds_of(pool: Pool, data: DataConfig) -> np.ndarray | None:
    """(N,) text by pool row: clean, wrong_label, broken_mask or off_distribution; None where no truth is known."""
    truth = sources.pool_truth(data)
    if truth is None or "path" not in pool.columns:
        return None
    table = pq.read_table(truth, columns=["category", "path", "kind"])
    names = ("category", "path", "kind")
    kinds = {(c, p): kind for c, p, kind in zip(*(table[name].to_pylist() for name in names), strict=True)}
    pairs = zip(pool.categories.tolist(), pool.column("path").tolist(), strict=True)
    return np.array([kinds.get(pair, "") for pair in pairs])


def auroc(scores: np.ndarray, good: np.ndarray) -> float | None:
    """Chance that a good one scores higher than another (ties count half); None where either kind is missing.

    scores (N,) float, of which NaN are left out; good (N,) bool.
    """
    from scipy.stats import mannwhitneyu

    known = np.isfinite(scores)
    positive, negative = scores[known & good], scores[known & ~good]
    if len(positive) == 0 or len(negative) == 0:
        return None
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))
