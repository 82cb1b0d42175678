"""What a run's method decided: acceptance over time, by category and frequency group, and by pool instance.

`harness decisions RUN` prints it and writes a picture sheet of the best and worst instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from harness.commands.drawing import contact_sheet, on_checkerboard
from harness.commands.hidden_truth import agreement_by_kind
from harness.data.paste.cutout import FaultyInstance, read_rgba
from harness.data.pool.pool import InstancePool
from harness.data.pool.sources import FileSource
from harness.errors import UserError
from harness.launch.tables import console
from harness.record.decisions import ceiling, read_decisions, read_pasted
from harness.record.files import write_atomically
from harness.run.finished_run import FinishedRun, finished_run

LEAST_SEEN = 2  # an instance seen less often says more of its neighbours than of itself
LISTED = 40  # categories that are listed in full
THUMBNAIL = 96  # pixels
CEILING = "the AUROC of a judge that knows the truth, but decides about as many instances at once"
RANKED = ("pool_row", "category", "seen", "accepted", "contribution")


def over_time(decisions: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Acceptance by stretch of training: first and last iteration, images, accepted (0..1), contribution, threshold."""
    edges = np.linspace(decisions["iteration"].min(), decisions["iteration"].max() + 1, bins + 1)
    part = np.digitize(decisions["iteration"], edges[1:-1])
    return (
        decisions.groupby(part)
        .agg(
            first=("iteration", "min"),
            last=("iteration", "max"),
            images=("accepted", "size"),
            accepted=("accepted", "mean"),
            contribution=("contribution", "mean"),
            threshold=("threshold", "mean"),
        )
        .reset_index(drop=True)
    )


def by_category(pasted: pd.DataFrame, names: np.ndarray, frequency: np.ndarray) -> pd.DataFrame:
    """Pasted instances by category: group (r, c, f; x for extra ones), name, instances, accepted, contribution."""
    frame = pasted.groupby("category").agg(
        instances=("accepted", "size"), accepted=("accepted", "mean"), contribution=("contribution", "mean")
    )
    known = frame.index < len(names)
    clipped = np.minimum(frame.index, len(names) - 1)
    frame.insert(0, "group", np.where(known, frequency[clipped], "x"))
    frame.insert(1, "name", np.where(known, names[clipped], frame.index.astype(str)))
    return frame.reset_index()


def by_group(categories: pd.DataFrame) -> pd.DataFrame:
    """`by_category` summed up over frequency groups, in the order r, c, f."""
    weighted = categories.assign(kept=categories["accepted"] * categories["instances"])
    frame = weighted.groupby("group").agg(instances=("instances", "sum"), kept=("kept", "sum"))
    frame["accepted"] = frame.pop("kept") / frame["instances"]
    return frame.reindex([group for group in "rcfx" if group in frame.index]).reset_index()


def by_instance(pasted: pd.DataFrame) -> pd.DataFrame:
    """Pool instances, best first: pool_row, category, seen, accepted, contribution.

    Acceptance ranks where the method gives no contribution.
    """
    frame = (
        pasted.groupby("pool_row")
        .agg(
            category=("category", "first"),
            seen=("accepted", "size"),
            accepted=("accepted", "mean"),
            contribution=("contribution", "mean"),
        )
        .reset_index()
    )
    figure = "accepted" if frame["contribution"].isna().all() else "contribution"
    return frame.sort_values([figure, "pool_row"], ascending=[False, True], ignore_index=True)


def decisions_command(
    runs: Path, run: str, sheet: Path | None = None, count: int = 12, trusted: Sequence[Path] = ()
) -> None:
    """Prints a run's decisions; with `sheet`, writes a PNG of the `count` best and worst instances there."""
    finished = finished_run(runs, run, trusted)
    decisions, pasted = read_decisions(finished.folder), read_pasted(finished.folder)
    if decisions is None or pasted is None:
        raise UserError(
            f"{finished.folder} holds no decisions: the run has not finished training, or its method keeps everything "
            "that it pastes, or pastes nothing"
        )
    if (last := int(pasted["pool_row"].max())) >= len(finished.prepared_pool):
        raise UserError(
            f"{finished.folder / 'decisions.parquet'} names row {last} of a pool of {len(finished.prepared_pool)}; the "
            "pool was exchanged, or the file is another run's"
        )
    categories = by_category(pasted, finished.dataset.train.category_names, finished.dataset.train.frequency)
    instances = by_instance(pasted)
    out = console()
    out.print(f"{finished.record.run_id}: {len(decisions)} images decided, {decisions['accepted'].mean():.1%} accepted")
    _print(out, "over training", over_time(decisions))
    _print(out, "by frequency group", by_group(categories))
    ranked = categories.sort_values("accepted", ascending=False)
    if len(ranked) <= LISTED:
        _print(out, "by category", ranked)
    else:
        ends = pd.concat([ranked.head(LISTED // 2), ranked.tail(LISTED // 2)])
        _print(out, f"the most and least accepted of {len(ranked)} categories", ends)
    kinds = finished.dataset.kinds(finished.prepared_pool)
    if kinds is not None:
        _print(out, "against the pool's hidden truth", agreement_by_kind(pasted, kinds))
        if (best := ceiling(decisions)) is not None:
            out.print(f"ceiling {best:.3f}: {CEILING}")
    often = instances[instances["seen"] >= LEAST_SEEN]
    if sheet is not None and len(often):
        _write_sheet(finished, often, kinds, sheet, count)
        out.print(f"best and worst instances: {sheet}")


def thumbnail(pool: InstancePool, row: int) -> np.ndarray | None:
    """(96, 96, 3) uint8 of a pool instance on a checkerboard; None if its image cannot be read."""
    source = pool.source(row)
    if not isinstance(source, FileSource):
        return None
    try:
        rgba = read_rgba(source)
    except FaultyInstance:
        return None
    picture = Image.fromarray(rgba)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    square = Image.new("RGBA", (THUMBNAIL, THUMBNAIL), (0, 0, 0, 0))
    square.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    return on_checkerboard(np.asarray(square))


def _write_sheet(finished: FinishedRun, ranked: pd.DataFrame, kinds: np.ndarray | None, path: Path, count: int) -> None:
    names, pool = finished.dataset.train.category_names, finished.prepared_pool
    chosen = pd.concat([ranked.head(count), ranked.tail(min(count, max(len(ranked) - count, 0)))])
    pictures, captions = [], []
    for row, category, seen, accepted, contribution in zip(*(chosen[name].tolist() for name in RANKED), strict=True):
        picture = thumbnail(pool, row)
        if picture is None:
            continue
        name = names[category] if category < len(names) else str(category)
        figure = f"{accepted:.0%} of {seen}" if np.isnan(contribution) else f"{contribution:.3f}"
        pictures.append(picture)
        captions.append("\n".join([name, figure, *([kinds[row]] if kinds is not None else [])]))
    if not pictures:
        raise UserError("none of the pool's images can be read, so there is no sheet to write")
    with write_atomically(path) as temporary:
        Image.fromarray(contact_sheet(pictures, captions, columns=min(count, 12))).save(temporary, format="PNG")


def _print(out: Console, title: str, frame: pd.DataFrame) -> None:
    table = Table(title=title, title_justify="left")
    for name in frame.columns:
        table.add_column(str(name), justify="left" if frame[name].dtype.kind == "O" else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*(_shown(value) for value in row))
    out.print(table)


def _shown(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
