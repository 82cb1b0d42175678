"""What a row's runs decided, and how that agrees with a pool's hidden truth, over its seeds.

Figures count pasted instances, as `harness.record.decisions` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.record.decisions import ceiling, clean_and_bad, contribution_roc, read_decisions
from reports.collect import Collection, TableRow
from reports.spec import Column
from reports.statistics import Summary, summarise

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def _share(key: str, title: str, about: str) -> Column:
    return Column(key, title, scale=100, decimals=0, unit="%", about=about)


AGREEMENT = (
    _share("accepted", "accepted", "share of the decided instances that were kept"),
    _share("clean_accepted", "accepted: clean", "of the kept instances, how many are clean"),
    _share("clean_rejected", "rejected: clean", "of the rejected instances, how many are clean"),
    _share("kept_clean", "clean: kept", "of the clean instances, how many were kept"),
    _share("kept_bad", "bad: kept", "of the bad instances, how many were kept"),
    Column(
        "auroc",
        "AUROC",
        decimals=2,
        about="how well the contribution ranks clean instances above bad ones; 0.5 is chance",
    ),
    Column(
        "ceiling",
        "ceiling",
        decimals=2,
        about="the AUROC of a judge that knows the truth, but decides on whole batches or images as the method does",
    ),
)


def agreement(decisions: pd.DataFrame) -> dict[str, float]:
    """The figures of `AGREEMENT` by key, as fractions of instances, NaN where undefined; empty without the truth."""
    known = decisions.dropna(subset=["clean_share"])
    if known.empty:
        return {}
    clean, bad = clean_and_bad(known)
    kept = known["accepted"].to_numpy(bool)
    curve, best = contribution_roc(known), ceiling(known)

    def share(part: np.ndarray, whole: np.ndarray) -> float:
        return float(part.sum() / whole.sum()) if whole.sum() else float("nan")

    every = clean + bad
    return {
        "accepted": share(every[kept], every),
        "clean_accepted": share(clean[kept], every[kept]),
        "clean_rejected": share(clean[~kept], every[~kept]),
        "kept_clean": share(clean[kept], clean),
        "kept_bad": share(bad[kept], bad),
        "auroc": float("nan") if curve is None else curve.auroc,
        "ceiling": float("nan") if best is None else best,
    }


def decisions_of(collection: Collection, row: TableRow) -> list[pd.DataFrame]:
    """The decisions of a row's complete runs, those that made any."""
    folders = [collection.folder / run for run in collection.complete(row.key)["run_id"]]
    return [found for found in map(collection.tolerant(read_decisions), folders) if found is not None]


def agreement_of(collection: Collection) -> dict[TableRow, dict[str, Summary]]:
    """Each row's figures of `AGREEMENT` by key, over its seeds; rows without the truth are left out."""
    result = {}
    for row in collection.rows:
        figures = [found for found in map(agreement, decisions_of(collection, row)) if found]
        if figures:
            result[row] = {column.key: summarise([each[column.key] for each in figures]) for column in AGREEMENT}
    return result
