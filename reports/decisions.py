"""What selecting methods decided, from decisions.parquet, and how that agrees with a pool's hidden truth.

The truth is each image's `clean_share`: the share of its pasted instances that are clean, known on the embedded
dataset alone. Figures count instances: an image with four pasted instances and a share of 0.75 is three good ones and
a bad one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reports.collect import Collection, TableRow
from reports.statistics import Summary, summarise

if TYPE_CHECKING:
    import pandas as pd

AGREEMENT = {
    "accepted": ("accepted", "share of the decided instances that were kept"),
    "clean_accepted": ("accepted: clean", "of the kept instances, how many are clean"),
    "clean_rejected": ("rejected: clean", "of the rejected instances, how many are clean"),
    "kept_clean": ("clean: kept", "of the clean instances, how many were kept"),
    "kept_bad": ("bad: kept", "of the bad instances, how many were kept"),
    "auroc": ("AUROC", "how well the contribution ranks clean instances above bad ones; 0.5 is chance"),
    "ceiling": (
        "at best",
        "the AUROC of a judge that knows the truth, but decides on whole batches or images as the method does",
    ),
}


@dataclass(frozen=True)
class Roc:
    """x: share of bad instances kept, y: share of clean ones kept, at every threshold on the contribution."""

    x: np.ndarray
    y: np.ndarray
    area: float


def read_decisions(folder: Path) -> pd.DataFrame | None:
    """The images that a decision was made about, in order: iteration, contribution, threshold, accepted, instances and,
    where the truth is known, clean_share. None for a run without any."""
    import pandas as pd
    import pyarrow.parquet as pq

    path = folder / "decisions.parquet"
    if not path.is_file():
        return None
    wanted = ["iteration", "contribution", "threshold", "accepted", "decided", "clean_share", "pool_rows"]
    present = set(pq.read_schema(path).names)
    table = pq.read_table(path, columns=[name for name in wanted if name in present])
    frame = table.drop(["pool_rows"]).to_pandas() if "pool_rows" in present else table.to_pandas()
    frame["instances"] = _lengths(table) if "pool_rows" in present else 1
    frame = frame[frame["decided"].astype(bool)] if "decided" in frame else frame
    for column in ("contribution", "threshold", "clean_share"):
        frame[column] = pd.to_numeric(frame[column]) if column in frame else np.nan
    return frame if len(frame) else None


def _lengths(table: object) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.list_value_length(table["pool_rows"]).to_numpy()  # type: ignore[index]


def roc(decisions: pd.DataFrame) -> Roc | None:
    """Of the contribution against the truth; None where either is unknown or all instances are of one kind."""
    known = decisions.dropna(subset=["contribution", "clean_share"]).sort_values("contribution", ascending=False)
    clean, bad = _clean_and_bad(known)
    if not clean.sum() or not bad.sum():
        return None
    # Equal contributions are passed by a threshold together.
    last = np.append(np.flatnonzero(np.diff(known["contribution"].to_numpy())), len(known) - 1)
    x = np.concatenate([[0.0], np.cumsum(bad)[last] / bad.sum()])
    y = np.concatenate([[0.0], np.cumsum(clean)[last] / clean.sum()])
    return Roc(x, y, float(np.trapezoid(y, x)))


def agreement(decisions: pd.DataFrame) -> dict[str, float]:
    """The figures of `AGREEMENT` as fractions of instances, NaN where undefined; empty without the truth."""
    known = decisions.dropna(subset=["clean_share"])
    if known.empty:
        return {}
    clean, bad = _clean_and_bad(known)
    kept = known["accepted"].to_numpy(bool)
    curve = roc(known)

    def share(part: np.ndarray, whole: np.ndarray) -> float:
        return float(part.sum() / whole.sum()) if whole.sum() else float("nan")

    every = clean + bad
    return {
        "accepted": share(every[kept], every),
        "clean_accepted": share(clean[kept], every[kept]),
        "clean_rejected": share(clean[~kept], every[~kept]),
        "kept_clean": share(clean[kept], clean),
        "kept_bad": share(bad[kept], bad),
        "auroc": curve.area if curve else float("nan"),
        "ceiling": _ceiling(known.assign(clean=clean, every=every)),
    }


def _ceiling(known: pd.DataFrame) -> float:
    """Area below the ROC of a contribution that is the share of clean instances among all that share one decision."""
    known = known.dropna(subset=["contribution"])
    if known.empty:
        return float("nan")
    together = known.groupby(["iteration", "contribution"])[["clean", "every"]].transform("sum")
    curve = roc(known.assign(contribution=together["clean"] / together["every"]))
    return curve.area if curve else float("nan")


def _clean_and_bad(known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    every = known["instances"].to_numpy(float)
    clean = known["clean_share"].to_numpy(float) * every
    return clean, every - clean


def decisions_of(collection: Collection, row: TableRow) -> list[pd.DataFrame]:
    """The decisions of a row's complete runs, those that made any."""
    folders = [collection.folder / run for run in collection.complete(row.key)["run_id"]]
    return [found for found in map(read_decisions, folders) if found is not None]


def agreement_of(collection: Collection) -> dict[TableRow, dict[str, Summary]]:
    """Each row's figures of `AGREEMENT` over its seeds; rows without the truth are left out."""
    result = {}
    for row in collection.rows:
        figures = [found for found in map(agreement, decisions_of(collection, row)) if found]
        if figures:
            result[row] = {key: summarise([each[key] for each in figures]) for key in AGREEMENT}
    return result
