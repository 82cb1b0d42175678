"""Offline filters of a pool: each gives a boolean mask over its rows, all true if the pool lacks the columns.

`require` warns of that, or refuses.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np

from methods.contract import Pool

log = logging.getLogger(__name__)

# Orders the instances that a growing subset takes; the same for every run, so that subsets nest.
ORDER_SEED = 2405


def require(pool: Pool, columns: tuple[str, ...], what: str, strict: bool) -> None:
    """Warns, or with `strict` raises ValueError, when a pool lacks columns that the filter `what` reads."""
    missing = [name for name in columns if name not in pool.columns]
    if not missing or len(pool) == 0:
        return
    sentence = (
        f"{what} reads {' and '.join(missing)}, which the pool lacks: `harness data index-pool` measures areas, "
        "`harness data score-pool` scores, and NAME.columns.csv beside the pool holds yours (docs/reference/pools.md)"
    )
    if strict:
        raise ValueError(sentence)
    log.warning("%s; it drops nothing by them", sentence)


def highest_clip_mask(pool: Pool) -> np.ndarray:
    """(N,) bool: of rows that cut the same image with different masks, the one with the highest CLIP score.

    Equal scores keep the earlier row. Source: X-Paste (2212.03863), section 3.2.
    """
    keep = np.ones(len(pool), bool)
    if not {"path", "clip_score"} <= set(pool.columns) or len(pool) == 0:
        return keep
    _, image = np.unique(np.asarray(pool.column("path")).astype(str), return_inverse=True)
    score = np.nan_to_num(np.asarray(pool.column("clip_score"), np.float64), nan=-np.inf)
    # The category is part of the key: one picture may serve two categories.
    order = np.lexsort((-score, pool.categories, image))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(image[order]) != 0) | (np.diff(pool.categories[order]) != 0)
    keep[:] = False
    keep[order[first]] = True
    return keep


def clip_at_least(pool: Pool, threshold: float, below_best: float) -> np.ndarray:
    """(N,) bool: CLIP score (percent) ≥ min(threshold, the category's best − below_best); unscored rows pass."""
    if "clip_score" not in pool.columns or len(pool) == 0:
        return np.ones(len(pool), bool)
    score = np.asarray(pool.column("clip_score"), np.float64)
    best = np.full(int(pool.categories.max()) + 1, -np.inf)
    np.maximum.at(best, pool.categories, np.nan_to_num(score, nan=-np.inf))
    kept: np.ndarray = np.isnan(score) | (score >= np.minimum(threshold, best - below_best)[pool.categories])
    return kept


def area_within(pool: Pool, low: float, high: float) -> np.ndarray:
    """(N,) bool: the instance covers between `low` and `high` of its image; unmeasured rows pass."""
    if "area_fraction" not in pool.columns:
        return np.ones(len(pool), bool)
    fraction = np.asarray(pool.column("area_fraction"), np.float64)
    return np.isnan(fraction) | ((fraction >= low) & (fraction <= high))


def top_share(categories: np.ndarray, scores: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: the best `share` of each category by `scores` (N,), at least one row; NaN come last."""
    place = place_in_category(categories, -np.nan_to_num(scores, nan=-np.inf))
    counts = np.bincount(categories, minlength=1)
    quota = np.maximum(1, np.ceil(share * counts - 1e-9)).astype(np.int64)
    kept: np.ndarray = place < quota[categories]
    return kept


def listed_scores(path: Path, pool: Pool) -> np.ndarray:
    """(N,) scores of a pool's rows from a CSV with the columns category, path and score; NaN for rows it lacks.

    Raises ValueError for a file without these columns, and for a pool whose rows have no path.
    """
    if "path" not in pool.columns:
        raise ValueError(f"{path} lists instances by path, and the pool has no column path")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = {"category", "path", "score"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: `harness score` writes such a file")
        scores = {(int(row["category"]), row["path"]): float(row["score"] or "nan") for row in reader}
    pairs = list(zip(pool.categories.tolist(), pool.column("path").tolist(), strict=True))
    if pairs and scores.keys().isdisjoint(pairs):
        raise ValueError(f"{path} lists none of the pool's instances: it is of another pool")
    return np.array([scores.get(pair, np.nan) for pair in pairs])


def few_of_each(categories: np.ndarray, groups: np.ndarray, limit: int) -> np.ndarray:
    """(N,) bool: at most `limit` rows of each category, as evenly as possible from its `groups` (N,) int64.

    Always the same rows; a larger limit includes those of a smaller one.
    """
    rng = np.random.Generator(np.random.PCG64(ORDER_SEED))
    turn = rng.random(len(categories))
    _, both = np.unique(np.stack([categories, groups]), axis=1, return_inverse=True)
    round_ = place_in_category(both.reshape(-1).astype(np.int64), turn)
    few: np.ndarray = place_in_category(categories, round_ + turn) < limit
    return few


def place_in_category(categories: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(N,) int64: each row's place (from 0) within its category by ascending key; ties keep the rows' order."""
    order = np.lexsort((key, categories))
    ordered = categories[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.zeros(0, int)
    place = np.empty(len(categories), np.int64)
    place[order] = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    return place
