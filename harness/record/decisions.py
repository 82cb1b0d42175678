"""A run's decisions on disk, and what a record keeps of them.

decisions.parquet holds one row an image and step in which something was pasted: iteration, rank, image (its place in
the rank's batch), pool_rows, categories (lists), contribution, threshold (nullable), accepted, decided, and clean_share
(nullable): how much of what was pasted is clean by the hidden truth, known for the embedded dataset's pools alone and
looked up after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.record.files import write_atomically

SCHEMA = pa.schema(
    [
        ("iteration", pa.int64()),
        ("rank", pa.int32()),
        ("image", pa.int64()),
        ("pool_rows", pa.list_(pa.int64())),
        ("categories", pa.list_(pa.int64())),
        ("contribution", pa.float64()),
        ("threshold", pa.float64()),
        ("accepted", pa.bool_()),
        ("decided", pa.bool_()),
        ("clean_share", pa.float64()),
    ]
)


def write_decisions(folder: Path, rows: Sequence[dict[str, Any]], clean: np.ndarray | None) -> None:
    """Writes decisions.parquet; `rows` are one dictionary an image, in the columns above but clean_share.

    clean: (N,) bool by pool row, None where no truth is known.
    """
    shares = [_share(clean, row["pool_rows"]) for row in rows]
    table = pa.Table.from_pylist(
        [{**row, "clean_share": share} for row, share in zip(rows, shares, strict=True)], SCHEMA
    )
    with write_atomically(folder / "decisions.parquet") as temporary:
        pq.write_table(table, temporary)


def decision_statistics(folder: Path) -> dict[str, Any]:
    """acceptance_rate (0..1) over decided images; where the pool's truth is known, clean_share_accepted,
    clean_share_rejected, and decisions_auroc: how well the contribution tells images with more clean instances from
    those with fewer than the median."""
    path = folder / "decisions.parquet"
    if not path.is_file():
        return {}
    table = pq.read_table(path, columns=["contribution", "accepted", "decided", "clean_share"])
    decided = table.filter(table["decided"])
    if len(decided) == 0:
        return {}
    accepted = decided["accepted"].to_numpy()
    statistics: dict[str, Any] = {"acceptance_rate": float(accepted.mean()), "decided_images": len(decided)}
    share = decided["clean_share"].to_numpy()
    if np.isnan(share).all():
        return statistics
    for name, chosen in (("accepted", accepted), ("rejected", ~accepted)):
        if chosen.any():
            statistics[f"clean_share_{name}"] = float(np.nanmean(share[chosen]))
    contribution = decided["contribution"].to_numpy()
    area = _auroc(contribution, share)
    return statistics | ({"decisions_auroc": area} if area is not None else {})


def _auroc(contribution: np.ndarray, share: np.ndarray) -> float | None:
    known = share[np.isfinite(contribution) & np.isfinite(share)]
    return auroc(np.where(np.isfinite(share), contribution, np.nan), share > np.median(known)) if len(known) else None


def _share(clean: np.ndarray | None, rows: Sequence[int]) -> float | None:
    return float(clean[rows].mean()) if clean is not None and len(rows) else None


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
