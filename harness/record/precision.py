"""Average precision and recall from ranked matches, for all categories at once."""

from __future__ import annotations

import numpy as np

RECALLS = np.linspace(0.0, 1.0, 101)
_EPSILON = np.spacing(1)


def average_precision(
    hit: np.ndarray, counted: np.ndarray, starts: np.ndarray, instances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AP over the 101 recalls, and the greatest recall, of C categories at one IoU threshold and area range.

    hit, counted (D,) bool, detections by category and falling score: matched ones, and those that are not ignored; a
    true positive is both. starts (C + 1,): category c has rows starts[c]:starts[c + 1]. instances (C,): its ground
    truth. Returns (C,) float64 twice, NaN for categories without ground truth.
    """
    ranked = np.concatenate([[0], np.cumsum(counted)])
    rows = np.flatnonzero(hit & counted)
    first = np.searchsorted(rows, starts)
    category = np.repeat(np.arange(len(starts) - 1), np.diff(first))
    true = np.arange(1, len(rows) + 1) - first[category]
    precision = true / (ranked[rows + 1] - ranked[starts[category]] + _EPSILON)

    present = np.flatnonzero(instances > 0)
    ap, recall = np.full((2, len(instances)), np.nan)
    begin, end = first[present], first[present + 1]
    recall[present] = (end - begin) / instances[present]
    # Precision only rises at hits, and to the right of the hit that first reaches a recall its envelope needs only
    # the hits from there on: so blocks of hits between recalls, their maxima, and a running maximum from the right.
    reaching = np.minimum(begin[:, None] + _hits_for_recalls(instances[present]) - 1, end[:, None])
    edges = np.concatenate([reaching, end[:, None]], 1)
    maxima = np.maximum.reduceat(np.append(precision, 0.0), edges.ravel()).reshape(edges.shape)[:, :-1]
    maxima[edges[:, :-1] >= edges[:, 1:]] = 0
    ap[present] = np.maximum.accumulate(maxima[:, ::-1], axis=1).mean(1)
    return ap, recall


def _hits_for_recalls(instances: np.ndarray) -> np.ndarray:
    """(n, 101) int64: the fewest hits, one at least, whose share of the instances reaches each recall."""
    count = instances[:, None]
    hits: np.ndarray = np.maximum(np.ceil(RECALLS * count).astype(np.int64) - 1, 1)
    for _ in range(2):  # rounding leaves the estimate short by one or two
        hits += hits / count < RECALLS
    return hits
