"""The figures of a report. Each function takes the spec, the tables' runs and its own options and returns a picture,
or the reason why there is none; a caption says what the figure was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.record.reading import Damaged, read_typed
from reports import style
from reports.collect import Collection, TableRow
from reports.differences import baseline_row, paired_runs
from reports.figure_curve import draw_curve
from reports.figure_decisions import draw_roc, draw_training
from reports.figure_learning import draw_learning
from reports.spec import COLUMNS, FREQUENCIES, Column, Spec
from reports.spec import Figure as FigureSpec
from reports.statistics import Summary, summarise
from reports.style import INK, MUTED, Picture, colour, marker
from reports.table import Table, time_ratio

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_DOTS = 60  # of a row; more hide one another
IN_PLACE_OF_DOTS = "the thick line covers the middle half of them and the thin one the middle nine tenths"
LONGEST_NAME = 1024  # letters of a category


def draw_figures(spec: Spec, collection: Collection, tables: list[Table]) -> tuple[list[Picture], list[str]]:
    """Every figure of the spec that there are records for, a sentence for each that had to be left out, and learning
    curves."""
    pictures, left_out = [], []
    with style.styled():
        for index, figure in enumerate(spec.figures):
            drawn = DRAWERS[figure.kind](spec, collection, tables, figure, f"figure-{index + 1}-{figure.kind}")
            if isinstance(drawn, Picture):
                pictures.append(drawn)
            else:
                left_out.append(f"{figure.title}: {drawn}")
        learning = draw_learning(spec, collection)
    pictures += [learning] if learning else []
    return pictures, left_out


# ------------------------------------------------------------------------------------------------ AP by row


def _rows(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    columns = [COLUMNS[key] for key in figure.options.get("columns", ("AP_box", "APr_box"))]
    shown = [table for table in tables if collection.with_runs([line.row for line in table.lines])]
    if not shown:
        return "no run of these rows is complete yet"
    lengths = [len(table.lines) for table in shown]
    height = 0.55 + 0.27 * sum(lengths) + 0.35 * len(shown)
    canvas, axes = style.canvas(height, len(columns), len(shown), sharey="row", height_ratios=lengths)
    for place, axis in enumerate(axes):
        table, column = shown[place // len(columns)], columns[place % len(columns)]
        _dots(axis, spec, collection, table, column)
        title = column.spoken if place < len(columns) else ""
        group = table.heading if place % len(columns) == 0 else ""
        axis.set_title(" · ".join(part for part in (group, title) if part))
    rows = [row for row in collection.rows if len(collection.complete(row.key))]
    first = f" The dashed line is the mean of {spec.label_of(spec.baselines[0])}." if spec.baselines else ""
    many = any(len(collection.complete(row.key)) > MOST_DOTS for row in rows)
    lines = f" With more than {MOST_DOTS} seeds, {IN_PLACE_OF_DOTS}." if many else ""
    caption = (
        f"Each dot is a seed and each bar the mean, in percent, from the records of {collection.seeds_of(rows)}."
        f"{lines}{first}"
    )
    return style.picture(canvas, name, figure.title, caption)


def _dots(axis: Axes, spec: Spec, collection: Collection, table: Table, column: Column) -> None:
    for y, line in enumerate(table.lines):
        values = collection.complete(line.row.key)[column.key].dropna().to_numpy(float)
        shade = MUTED if line.row.row.key in spec.baselines[:1] else colour(0)
        if len(values):
            if len(values) <= MOST_DOTS:
                axis.plot(values, np.full(len(values), y), "o", ms=5, color=shade, alpha=0.55, mew=0)
            else:
                _quantiles(axis, y, values, shade)
            axis.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color=shade, lw=2.4, solid_capstyle="butt")
        else:
            axis.annotate(
                "no complete run", (0.02, y), xycoords=("axes fraction", "data"), color=MUTED, fontsize=8, va="center"
            )
    baseline = next((line for line in table.lines if spec.baselines and line.row.row.key == spec.baselines[0]), None)
    if baseline is not None:
        mean = summarise(collection.complete(baseline.row.key)[column.key]).mean
        if np.isfinite(mean):
            axis.axvline(mean, color=MUTED, lw=0.9, ls=(0, (3, 3)), zorder=0.5)
    axis.set_yticks(range(len(table.lines)), [line.row.label for line in table.lines], color=INK)
    _row_axis(axis, len(table.lines))


# ------------------------------------------------------------------------------------------------ by category


def _categories(
    spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str
) -> Picture | str:
    """Every category's AP minus the first baseline's, by frequency group, one column of dots a row of the table."""
    iou = figure.options.get("iou", "bbox")
    wanted = figure.options.get("rows") or [row.key for row in spec.rows if row.key not in spec.baselines]
    differences = {}
    for row in collection.rows:
        other = baseline_row(collection, row, spec.baselines[0]) if spec.baselines else None
        if row.row.key in wanted and other is not None:
            found = _category_difference(collection, row, other, iou)
            if found is not None:
                differences[row] = found
    if not differences:
        return "no complete run has per-category results that its baseline has too"
    canvas, axes = style.canvas(0.8 + 0.32 * len(differences), len(FREQUENCIES), sharey=True, sharex=True)
    for axis, (letter, word) in zip(axes, FREQUENCIES.items(), strict=True):
        for place, found in enumerate(differences.values()):
            values = found.loc[found["frequency"] == letter, "difference"].dropna().to_numpy(float)
            if len(values):
                _spread(axis, place, values)
        axis.axvline(0, color=MUTED, lw=0.9, zorder=0.5)
        axis.set_title(word)
        axis.set_yticks(
            range(len(differences)), [spec.label_in_group(row.label, row.group) for row in differences], color=INK
        )
        _row_axis(axis, len(differences))
    axes[1].set_xlabel(f"difference of {'box' if iou == 'bbox' else 'mask'} AP to {spec.label_of(spec.baselines[0])}")
    caption = (
        "Every category's difference, paired by seed and averaged over the seeds that both have. The bar is the "
        f"group's mean. Each dot is a category; with more than {MOST_DOTS}, {IN_PLACE_OF_DOTS}. From "
        "per_category.parquet beside the records."
    )
    return style.picture(canvas, name, figure.title, caption)


def _spread(axis: Axes, place: int, values: np.ndarray) -> None:
    """The group's categories as dots, or as quantiles where dots would hide one another; and their mean."""
    if len(values) <= MOST_DOTS:
        jitter = np.random.default_rng(place).uniform(-0.2, 0.2, len(values))
        axis.plot(values, place + jitter, "o", ms=4, mew=0, alpha=0.5, color=colour(0))
    else:
        _quantiles(axis, place, values, colour(0))
    axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=colour(0), lw=2.2, solid_capstyle="butt")


def _quantiles(axis: Axes, place: int, values: np.ndarray, shade: str) -> None:
    """In place of more than `MOST_DOTS` dots."""
    low, lower, upper, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    axis.plot([low, high], [place] * 2, color=shade, lw=0.9, alpha=0.6)
    axis.plot([lower, upper], [place] * 2, color=shade, lw=5, alpha=0.45, solid_capstyle="butt")


def _row_axis(axis: Axes, rows: int) -> None:
    """An axis with a row of the table at every integer, the first on top."""
    axis.set_ylim(rows - 0.45, -0.55)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.locator_params(axis="x", nbins=4)


def category_ap(folder: Path, iou: str) -> pd.DataFrame | None:
    """A run's AP in percent by category_id, with name and frequency; None without per_category.parquet. Raises
    Damaged."""
    path = folder / "per_category.parquet"
    if not path.is_file():
        return None
    columns = {
        "iou_type": "string", "category_id": "int64", "name": "string", "frequency": "string", "instances": "int64",
        "images": "int64", "AP": "float64",
    }  # fmt: skip
    table: pd.DataFrame = read_typed(path, columns, gaps=["AP"]).to_pandas()
    table = table[table["iou_type"].astype(str) == iou].set_index("category_id")
    ap = table["AP"].astype(float)
    if (
        table.index.has_duplicates
        or not ap.dropna().between(0, 1.001).all()
        or (table[["instances", "images"]] < 0).any(axis=None)
    ):
        raise Damaged(f"{path}: a category twice, an AP beyond 0 to 1 or a count below 0; delete it")
    if not (table["frequency"].isin(list(FREQUENCIES)).all() and (table["name"].str.len() <= LONGEST_NAME).all()):
        raise Damaged(f"{path}: a frequency that is none of r, c, f, or a name of more than {LONGEST_NAME} letters")
    return table.assign(AP=100 * ap)


def _category_difference(collection: Collection, row: TableRow, other: TableRow, iou: str) -> pd.DataFrame | None:
    import pandas as pd

    sides = paired_runs(collection.complete(row.key), collection.complete(other.key))
    read = collection.tolerant(category_ap)
    found, groups = [], None
    for ours, theirs in zip(*(side["run_id"].to_numpy() for side in sides), strict=True):
        mine = read(collection.folder / ours, iou)
        base = None if mine is None else read(collection.folder / theirs, iou)
        if mine is not None and base is not None:
            found.append(mine["AP"] - base["AP"])
            groups = mine["frequency"]
    if groups is None:
        return None
    return pd.DataFrame({"difference": pd.concat(found, axis=1).mean(axis=1), "frequency": groups})


def _cost(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    """A metric against the time of a training step over the first baseline's, a panel for each group."""
    column = COLUMNS[figure.options.get("column", "APr_box")]
    points = {table: _cost_points(spec, collection, table, column) for table in tables}
    points = {table: found for table, found in points.items() if found}
    if not points:
        return "no complete run has both its own step time and its baseline's"
    canvas, axes = style.canvas(3.2, len(points))
    for axis, (table, found) in zip(axes, points.items(), strict=True):
        for place, (row, time, metric) in found.items():
            spread: Any = {"xerr": np.nan_to_num(time.sd), "yerr": np.nan_to_num(metric.sd), "elinewidth": 1}
            look: Any = {"color": colour(place), "marker": marker(place), "ms": 5.5, "ls": "", "label": row.label}
            axis.errorbar(time.mean, metric.mean, **spread, **look)
        axis.axvline(1, color=MUTED, lw=0.9, ls=(0, (3, 3)), zorder=0.5)
        axis.set_title(" · ".join(part for part in (table.heading, column.spoken) if part))
        axis.locator_params(axis="x", nbins=5)
    canvas.supxlabel(f"step time relative to {spec.label_of(spec.baselines[0])}", fontsize=8.5, color=MUTED)
    style.legend_above(canvas, axes)
    rows = [row for found in points.values() for row, _, _ in found.values()]
    caption = f"Mean and standard deviation over seeds, {collection.seeds_of(rows)}; training time from the records."
    return style.picture(canvas, name, figure.title, caption)


def _cost_points(
    spec: Spec, collection: Collection, table: Table, column: Column
) -> dict[int, tuple[TableRow, Summary, Summary]]:
    """By place in the table: the row, its time ratio and its metric, where both are known."""
    points = {}
    for place, line in enumerate(table.lines):
        other = baseline_row(collection, line.row, spec.baselines[0]) if spec.baselines else None
        runs = collection.complete(line.row.key)
        if other is not None and len(runs):
            time = summarise(time_ratio(runs, collection.complete(other.key)))
            metric = summarise(runs[column.key])
            if time.n and metric.n:
                points[place] = (line.row, time, metric)
    return points


Drawer = Callable[[Spec, Collection, list[Table], FigureSpec, str], "Picture | str"]
DRAWERS: dict[str, Drawer] = {
    "rows": _rows,
    "curve": draw_curve,
    "training": draw_training,
    "categories": _categories,
    "cost": _cost,
    "roc": draw_roc,
}
