"""The hidden truth of the embedded dataset's pools: what each instance really is. Methods never see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.record.reading import read_parquet
from methods.contract import Pool

CLEAN = "clean"


def kinds_of(pool: Pool, truth: Path) -> np.ndarray | None:
    """(N,) text by pool row: clean, wrong_label, broken_mask or off_distribution; None if no truth is known.

    `truth` is the file that `mini.pools` wrote beside the pool.
    """
    if not truth.is_file() or "path" not in pool.columns:
        return None
    names = ("category", "path", "kind")
    table = read_parquet(truth, list(names))
    kinds = {(c, p): kind for c, p, kind in zip(*(table[name].to_pylist() for name in names), strict=True)}
    pairs = zip(pool.categories.tolist(), pool.column("path").tolist(), strict=True)
    return np.array([kinds.get(pair, "") for pair in pairs])
