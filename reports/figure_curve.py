"""The figure of AP against a setting: ours with its spread, published figures dashed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from reports import style
from reports.collect import ABSENT, Collection, TableRow, canonical
from reports.spec import COLUMNS, Column, Spec
from reports.spec import Figure as FigureSpec
from reports.statistics import summarise
from reports.style import Picture, colour, marker
from reports.table import Table, published_sources

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PUBLISHED = ", published"  # behind the label of a line


def draw_curve(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    """Metrics against a setting or column, one line for every value of another setting (or every row of the spec)."""
    columns = [COLUMNS[key] for key in figure.options.get("columns", ("AP_box", "APr_box"))]
    lines = _curve_lines(collection, tables, figure)
    if not lines:
        return f"neither a record nor a published figure has the setting {figure.options['x']}"
    canvas, axes = style.canvas(2.9, len(columns))
    for axis, column in zip(axes, columns, strict=True):
        for place, (label, points) in enumerate(lines.items()):
            _curve_line(axis, points, column, label, place, paper=_papers_first(points, column))
        axis.set_title(column.spoken)
        axis.set_xlabel(str(figure.options.get("x_label", figure.options["x"])))
        _ticks(axis, figure, lines)
    style.legend_above(canvas, axes, last={label + PUBLISHED for label in lines})  # a line before its dashed one
    rows = collection.with_runs(list(collection.rows))
    made = (
        f"Ours: mean and standard deviation, {collection.seeds_of(rows)}."
        if rows
        else "None of our runs is complete yet."
    )
    published = any(
        not np.isnan(p["papers"].get(c.key, np.nan)) for points in lines.values() for p in points for c in columns
    )
    caption = made + (f" Dashed: published ({'; '.join(published_sources(tables))})." if published else "")
    return style.picture(canvas, name, figure.title, caption)


def _curve_lines(collection: Collection, tables: list[Table], figure: FigureSpec) -> dict[str, list[dict[str, Any]]]:
    x_setting, line_setting = figure.options["x"], figure.options.get("lines")
    numbers = {canonical(key): value for key, value in figure.options.get("numbers", {}).items()}
    names = {canonical(key): value for key, value in figure.options.get("labels", {}).items()}
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in (line for table in tables for line in table.lines):
        x = _place_on_x(collection, line.row, x_setting, numbers)
        if x is None:
            continue
        which = line.row.row.key if line_setting is None else _setting_of(collection, line.row, line_setting)
        label = names.get(which, line.row.row.short if line_setting is None else which)
        papers = {cell.column.key: cell.published for cell in line.cells if cell.published is not None}
        runs = collection.complete(line.row.key)
        if len(runs) or papers:
            lines.setdefault(label, []).append({"x": x, "runs": runs, "papers": papers})
    return {label: sorted(points, key=lambda point: point["x"]) for label, points in lines.items()}


def _place_on_x(collection: Collection, row: TableRow, x: str, numbers: Mapping[str, float]) -> float | None:
    """The row's value of a column or setting, a setting's by `numbers` where it is a word."""
    if x in COLUMNS:
        mean = summarise(collection.complete(row.key)[x]).mean * COLUMNS[x].scale
        return mean if np.isfinite(mean) else None
    value = _setting_of(collection, row, x)
    try:
        return float(numbers.get(value, value))
    except ValueError:
        return None


def _setting_of(collection: Collection, row: TableRow, setting: str) -> str:
    """What the row says of a setting: by its `each`, by its `where`, or by its runs when they agree."""
    if setting in row.values:
        return row.values[setting]
    if setting in row.row.where and not isinstance(row.row.where[setting], list):
        return canonical(row.row.where[setting])
    found = {entry[f"setting.{setting}"] for entry in collection.runs_of(row.key)}
    return found.pop() if len(found) == 1 else ABSENT


def _papers_first(points: list[dict[str, Any]], column: Column) -> bool:
    return any(column.key in point["papers"] for point in points)


def _curve_line(axis: Axes, points: list[dict[str, Any]], column: Column, label: str, place: int, paper: bool) -> None:
    shade = colour(place)
    ours = [(p["x"], summarise(p["runs"][column.key]), p["runs"][column.key]) for p in points if len(p["runs"])]
    ours = [entry for entry in ours if entry[1].n]
    if ours:
        x = [entry[0] for entry in ours]
        spread = np.nan_to_num([entry[1].sd for entry in ours])
        axis.errorbar(
            x,
            [entry[1].mean for entry in ours],
            spread,
            color=shade,
            marker=marker(place),
            ms=5,
            capsize=2,
            elinewidth=1,
            label=label,
        )
        for at, _, values in ours:
            axis.plot([at] * len(values), values, ".", color=shade, alpha=0.4, ms=4)
    if paper:
        known = [(p["x"], p["papers"][column.key]) for p in points if column.key in p["papers"]]
        axis.plot(
            *zip(*known, strict=True),
            ls=(0, (4, 3)),
            lw=1.2,
            color=shade,
            marker=marker(place),
            ms=4,
            mfc="none",
            label=label + PUBLISHED,
        )


def _ticks(axis: Axes, figure: FigureSpec, lines: Mapping[str, list[dict[str, Any]]]) -> None:
    """A tick at every value of a setting, where they are few."""
    values = sorted({point["x"] for points in lines.values() for point in points})
    if len(values) <= 8 and figure.options["x"] not in COLUMNS:
        axis.set_xticks(values, [f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}" for value in values])
