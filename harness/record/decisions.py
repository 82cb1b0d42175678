"""A run's decisions on disk, what a record keeps of them, and how well they agree with a pool's hidden truth.

decisions.parquet holds one row per image and step in which something was pasted: iteration, rank, image (its place in
the rank's batch), pool_rows, categories (lists), contribution, threshold (nullable), accepted, decided, and clean_share
(nullable): how much of what was pasted is clean by the hidden truth, known for the embedded dataset's pools alone and
looked up after training. Where a method decides about single instances, three lists, as long as pool_rows, tell it:
contributions, kept and weights (null where it gave none), and clean, by the hidden truth.

Agreement counts pasted instances: each once for every time that it was pasted, with its own contribution or that of its
image. An image with four pasted instances and a clean_share of 0.75 is three clean ones and a bad one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.record.reading import Damaged, read_parquet, read_schema

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
        ("contributions", pa.list_(pa.float64())),
        ("kept", pa.list_(pa.bool_())),
        ("weights", pa.list_(pa.float64())),
        ("clean_share", pa.float64()),
        ("clean", pa.list_(pa.bool_())),
    ]
)
LOGGED = pa.schema([field for field in SCHEMA if field.name not in ("clean_share", "clean")])  # while training
TOGETHER = ["iteration", "contribution"]  # what shares both was decided about as one, by all ranks where they agree


def read_decisions(folder: Path) -> pd.DataFrame | None:
    """The decisions in the file's order, a row per image, or an instance where single ones were decided about; None
    without any.

    Columns: iteration, rank, contribution, threshold, accepted, clean_share (0 or 1 for an instance), and instances:
    how many were pasted.
    """
    table = _decided(folder, SCHEMA.names)
    if table is None:
        return None
    by_instance = of_single_instances(table)
    parts = [_of_images(table.filter(pc.invert(by_instance))), _of_instances(table.filter(by_instance))]
    frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    return frame.sort_values(["row", "place"], kind="stable", ignore_index=True).drop(columns=["row", "place"])


def of_single_instances(table: pa.Table) -> pa.ChunkedArray:
    """(N,) bool: whether a row's decision is about single instances and not about the image."""
    return pc.or_(pc.is_valid(table["kept"]), pc.is_valid(table["contributions"]))


DECISION = ["row", "iteration", "rank", "contribution", "threshold", "accepted", "clean_share"]


def _of_images(table: pa.Table) -> pa.Table:
    """A row an image, numbered in `place` as its only decision."""
    counts = pc.cast(pc.list_value_length(table["pool_rows"]), pa.int64())
    frame = table.select(DECISION).append_column("place", pa.array(np.zeros(len(table), np.int64)))
    return frame.append_column("instances", counts)


def _of_instances(table: pa.Table) -> pa.Table:
    """A row per pasted instance, numbered in `place`, with figures of its own where there are any."""
    each = _exploded(table)
    frame = each.select([name for name in DECISION if name != "clean_share"])
    clean = pc.cast(each["clean"], pa.float64())
    frame = frame.append_column("clean_share", clean)
    frame = frame.append_column("place", pa.array(np.arange(len(each))))
    return frame.append_column("instances", pa.array(np.ones(len(each), np.int64)))


def read_pasted(folder: Path) -> pd.DataFrame | None:
    """The instances pasted where a decision was made, in the file's order, a row each time: pool_row, category,
    contribution, accepted, each its own or its image's. None if there are none."""
    table = _decided(folder, SCHEMA.names)
    if table is None:
        return None
    frame = _exploded(table).select(["pool_row", "category", "contribution", "accepted"]).to_pandas()
    return frame if len(frame) else None


def _exploded(table: pa.Table) -> pa.Table:
    """A row per pasted instance: row, iteration, rank, pool_row, category, contribution, threshold, accepted, clean."""
    rows = table["pool_rows"].combine_chunks()
    images = pc.list_parent_indices(rows)
    each = table.select(["row", "iteration", "rank", "threshold"]).take(images)
    each = each.append_column("pool_row", pc.list_flatten(rows))
    each = each.append_column("category", pc.list_flatten(table["categories"].combine_chunks()))
    for name, own in (("contribution", "contributions"), ("accepted", "kept"), ("clean", "clean")):
        ofimage = table[name] if name != own else pa.nulls(len(table), pa.bool_())
        each = each.append_column(name, pc.coalesce(_flat(table[own], rows), pc.take(ofimage, images)))
    return each


def _flat(lists: pa.ChunkedArray, like: pa.ListArray) -> pa.Array:
    """The entries of lists as long as those of `like`, null where a list is null."""
    present = pc.is_valid(lists).combine_chunks()
    places = np.flatnonzero(present.to_numpy(zero_copy_only=False)[pc.list_parent_indices(like).to_numpy()])
    values = pc.list_flatten(lists.combine_chunks())
    index = np.full(len(pc.list_flatten(like)), -1)
    index[places] = np.arange(len(places))
    return pc.take(values, pa.array(index, mask=index < 0))


def _decided(folder: Path, columns: list[str]) -> pa.Table | None:
    """The rows that a decision was made about, numbered in `row`; columns that an older file lacks are null."""
    path = folder / "decisions.parquet"
    if not path.is_file():
        return None
    known = set(read_schema(path).names)
    table = read_parquet(path, [name for name in columns if name in known], pc.field("decided"))
    try:
        table = table.cast(pa.schema([SCHEMA.field(name) for name in table.column_names]))
        _check(table)
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise Damaged(f"{path}: no decisions of ours ({str(error)[:100]}); delete it and its run's record") from error
    for name in columns:
        if name not in known:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    return table.append_column("row", pa.array(np.arange(len(table)))) if len(table) else None


def _check(table: pa.Table) -> None:
    """Raises ValueError if figures would be taken for other instances' than their own, or of none at all."""
    for name in ("iteration", "rank", "pool_rows", "categories", "accepted"):
        if name not in table.column_names or table[name].null_count:
            raise ValueError(f"{name} is not everywhere")
    length = pc.list_value_length(table["pool_rows"])
    for name in ("categories", "contributions", "kept", "weights", "clean"):
        if name in table.column_names:
            same = pc.equal(pc.list_value_length(table[name]), length)  # null where the list is
            if not pc.all(pc.fill_null(same, True)).as_py() and len(table):
                raise ValueError(f"expected as many {name} as pool_rows in each row")
    if "clean_share" in table.column_names:
        shares = table["clean_share"].drop_null().to_numpy()
        if not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError("clean_share goes beyond 0 to 1")
    for name in ("iteration", "pool_rows", "categories"):
        values = table[name] if name == "iteration" else pc.list_flatten(table[name])
        least = pc.min(values).as_py()
        if values.null_count or (least is not None and least < 0):
            raise ValueError(
                f"{name} holds {least if least is not None and least < 0 else 'nothing'} where it counts from 0"
            )


def decision_statistics(folder: Path) -> dict[str, Any]:
    """What a record keeps: acceptance_rate (0..1) over the decisions, of images or of instances; empty without any."""
    frame = read_decisions(folder)
    return {} if frame is None else {"acceptance_rate": float(frame["accepted"].mean())}


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
    """How well scores tell good from bad ones; None if either kind is missing.

    scores (N,), of which NaN are left out; good, bad (N,): how many good and bad ones have that score, or bool.
    """
    scores, good, bad = (np.asarray(values, float) for values in (scores, good, bad))
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    scores, good, bad = scores[order], good[order], bad[order]
    if not good.sum() or not bad.sum():
        return None
    # Equal scores are passed by a threshold together.
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    kept_good, kept_bad = np.cumsum(good)[last] / good.sum(), np.cumsum(bad)[last] / bad.sum()
    return Roc(np.append(0.0, kept_good), np.append(0.0, kept_bad))


def clean_and_bad(decisions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(N,) each: how many clean and bad instances were pasted into an image; NaN where the truth is not known."""
    every = decisions["instances"].to_numpy(float)
    clean = decisions["clean_share"].to_numpy(float) * every
    return clean, every - clean


def contribution_roc(decisions: pd.DataFrame) -> Roc | None:
    """Of the contribution against the truth; None if either is unknown or all instances are of one kind."""
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
