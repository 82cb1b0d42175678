"""A run's decisions on disk, what a record keeps of them, and how well they agree with a pool's hidden truth.

decisions.parquet holds one row an image and step in which something was pasted: iteration, rank, image (its place in
the rank's batch), pool_rows, categories (lists), contribution, threshold (nullable), accepted, decided, and clean_share
(nullable): how much of what was pasted is clean by the hidden truth, known for the embedded dataset's pools alone and
looked up after training.

Agreement counts pasted instances: each once for every time that it was pasted, with the contribution of its image. An
image with four pasted instances and a clean_share of 0.75 is three clean ones and a bad one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.record.files import write_table

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

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
TOGETHER = ["iteration", "contribution"]  # what shares both was decided about as one, by all ranks where they agree


def write_decisions(folder: Path, rows: Sequence[dict[str, Any]], clean: np.ndarray | None) -> None:
    """Writes decisions.parquet; `rows` are one dictionary an image, in the columns above but clean_share.

    clean: (N,) bool by pool row, None where no truth is known.
    """
    shares = [_share(clean, row["pool_rows"]) for row in rows]
    table = pa.Table.from_pylist(
        [{**row, "clean_share": share} for row, share in zip(rows, shares, strict=True)], SCHEMA
    )
    write_table(table, folder / "decisions.parquet")


def _share(clean: np.ndarray | None, rows: Sequence[int]) -> float | None:
    return float(clean[rows].mean()) if clean is not None and len(rows) else None


def read_decisions(folder: Path) -> pd.DataFrame | None:
    """The images that a decision was made about, in the file's order; None where there are none.

    Columns as above without the lists, and instances: how many were pasted.
    """
    table = _decided(folder, [name for name in SCHEMA.names if name != "categories"])
    if table is None:
        return None
    frame: pd.DataFrame = table.drop(["pool_rows"]).to_pandas()
    frame["instances"] = pc.list_value_length(table["pool_rows"]).to_numpy()
    return frame


def read_pasted(folder: Path) -> pd.DataFrame | None:
    """The instances pasted into those images, in their order, a row each time: pool_row, category, contribution,
    accepted. None where no decision was made about any."""
    table = _decided(folder, ["pool_rows", "categories", "contribution", "accepted"])
    if table is None:
        return None
    rows, categories = (table[name].combine_chunks() for name in ("pool_rows", "categories"))
    images = table.select(["contribution", "accepted"]).take(pc.list_parent_indices(rows))
    frame = images.to_pandas()
    frame.insert(0, "pool_row", pc.list_flatten(rows).to_numpy())
    frame.insert(1, "category", pc.list_flatten(categories).to_numpy())
    return frame if len(frame) else None


def _decided(folder: Path, columns: list[str]) -> pa.Table | None:
    path = folder / "decisions.parquet"
    if not path.is_file():
        return None
    table = pq.read_table(path, columns=columns, filters=pc.field("decided"))
    return table if len(table) else None


def decision_statistics(folder: Path) -> dict[str, Any]:
    """What a record keeps: acceptance_rate (0..1) over the images that a decision was made about; empty without any."""
    table = _decided(folder, ["accepted"])
    return {} if table is None else {"acceptance_rate": float(table["accepted"].to_numpy().mean())}


# ------------------------------------------------------------------------------------- agreement with the hidden truth


@dataclass(frozen=True)
class Roc:
    """Shares of the good and of the bad that are kept (K + 1,), at every threshold from the strictest to the widest."""

    good: np.ndarray
    bad: np.ndarray

    @property
    def auroc(self) -> float:
        """Chance that a good one scores higher than a bad one, ties counting half: the area below the curve."""
        return float(np.trapezoid(self.good, self.bad))


def roc(scores: ArrayLike, good: ArrayLike, bad: ArrayLike) -> Roc | None:
    """How well scores tell good from bad ones; None where either kind is missing.

    scores (N,), of which NaN are left out; good, bad (N,): how many good and bad ones have that score, or bool.
    """
    scores, good, bad = (np.asarray(values, float) for values in (scores, good, bad))
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    scores, good, bad = scores[order], good[order], bad[order]
    if not good.sum() or not bad.sum():
        return None
    # Equal scores are passed by a threshold together.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    kept_good, kept_bad = np.cumsum(good)[last] / good.sum(), np.cumsum(bad)[last] / bad.sum()
    return Roc(np.append(0.0, kept_good), np.append(0.0, kept_bad))


def clean_and_bad(decisions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(N,) each: how many clean and bad instances were pasted into an image; NaN where the truth is not known."""
    every = decisions["instances"].to_numpy(float)
    clean = decisions["clean_share"].to_numpy(float) * every
    return clean, every - clean


def contribution_roc(decisions: pd.DataFrame) -> Roc | None:
    """Of the contribution against the truth; None where either is unknown or all instances are of one kind."""
    known = decisions.dropna(subset=["contribution", "clean_share"])
    return roc(known["contribution"], *clean_and_bad(known))


def ceiling(decisions: pd.DataFrame) -> float | None:
    """The AUROC of a judge that knows the truth, but decides on whole batches or images, as the method did.

    What is pasted together is accepted together, so a batch of clean and bad instances limits what any judge can do.
    """
    known = decisions.dropna(subset=["contribution", "clean_share"])
    clean, bad = clean_and_bad(known)
    together = known.assign(clean=clean).groupby(TOGETHER)[["clean", "instances"]].transform("sum")
    curve = roc(together["clean"] / together["instances"], clean, bad)
    return curve.auroc if curve else None
