"""The figures of a report. Each function takes the spec, the tables' runs and its own options and returns a picture,
or the reason why there is none; a caption says what the figure was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports import style
from reports.collect import ABSENT, Collection, TableRow, canonical
from reports.decisions import decisions_of, roc
from reports.spec import COLUMNS, Column, Spec
from reports.spec import Figure as FigureSpec
from reports.statistics import Summary, summarise
from reports.style import INK, MUTED, RULE, Picture, colour, marker
from reports.table import Table, baseline_row, time_ratio

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
MOST_DOTS = 60  # of a group of categories


def draw_figures(spec: Spec, collection: Collection, tables: list[Table]) -> tuple[list[Picture], list[str]]:
    """Every figure of the spec that there are records for, and a sentence for each that had to be left out."""
    pictures, left_out = [], []
    with style.styled():
        for index, figure in enumerate(spec.figures):
            drawn = DRAWERS[figure.kind](spec, collection, tables, figure, f"figure-{index + 1}-{figure.kind}")
            if isinstance(drawn, Picture):
                pictures.append(drawn)
            else:
                left_out.append(f"{figure.title}: {drawn}")
    return pictures, left_out


def heading(column: Column) -> str:
    """A column's heading without sub- and superscript: rare AP, box."""
    group = FREQUENCIES.get(column.subscript, column.subscript)
    words = f"{group} {column.base}" if group in FREQUENCIES.values() else f"{column.base}{group}"
    return f"{words}, {column.superscript}" if column.superscript else words


def _seeds(collection: Collection, rows: list[TableRow]) -> str:
    counts = sorted({len(collection.complete(row.key)) for row in rows} - {0})
    return (
        f"{counts[0]} to {counts[-1]} seeds a row"
        if len(counts) > 1
        else f"{counts[0]} seed{'s' * (counts[0] > 1)} a row"
    )


def _with_runs(collection: Collection, rows: list[TableRow]) -> list[TableRow]:
    return [row for row in rows if len(collection.complete(row.key))]


# ------------------------------------------------------------------------------------------------ AP by row


def _rows(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    columns = [COLUMNS[key] for key in figure.options.get("columns", ("AP_box", "APr_box"))]
    shown = [table for table in tables if _with_runs(collection, [line.row for line in table.lines])]
    if not shown:
        return "no run of these rows is complete yet"
    lengths = [len(table.lines) for table in shown]
    height = 0.55 + 0.27 * sum(lengths) + 0.35 * len(shown)
    canvas, axes = style.canvas(height, len(columns), len(shown), sharey="row", height_ratios=lengths, sharex="col")
    for place, axis in enumerate(axes):
        table, column = shown[place // len(columns)], columns[place % len(columns)]
        _dots(axis, spec, collection, table, column)
        title = heading(column) if place < len(columns) else ""
        group = table.heading if place % len(columns) == 0 else ""
        axis.set_title(" · ".join(part for part in (group, title) if part))
    rows = [row for row in collection.rows if len(collection.complete(row.key))]
    first = f" The dashed line is the mean of {spec.label_of(spec.baselines[0])}." if spec.baselines else ""
    caption = f"A dot is a seed, the bar the mean, in percent; from the records of {_seeds(collection, rows)}.{first}"
    return style.picture(canvas, name, figure.title, caption)


def _dots(axis: Axes, spec: Spec, collection: Collection, table: Table, column: Column) -> None:
    for y, line in enumerate(table.lines):
        values = collection.complete(line.row.key)[column.key].dropna().to_numpy(float)
        shade = MUTED if line.row.row.key in spec.baselines[:1] else colour(0)
        if len(values):
            axis.plot(values, np.full(len(values), y), "o", ms=5, color=shade, alpha=0.55, mew=0)
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


# ------------------------------------------------------------------------------------------------ AP against a setting


def _curve(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    """Metrics against a setting, one line for every value of another setting (or for every row of the spec)."""
    columns = [COLUMNS[key] for key in figure.options.get("columns", ("AP_box", "APr_box"))]
    lines = _curve_lines(collection, tables, figure)
    if not lines:
        return f"no record and no published figure has the setting {figure.options['x']}"
    canvas, axes = style.canvas(2.9, len(columns))
    for axis, column in zip(axes, columns, strict=True):
        for place, (label, points) in enumerate(lines.items()):
            _curve_line(axis, points, column, label, place, paper=_papers_first(points, column))
        axis.set_title(heading(column))
        axis.set_xlabel(str(figure.options.get("x_label", figure.options["x"])))
        _ticks(axis, figure, lines)
    canvas.legend(*_legend(axes), loc="outside upper left", ncols=2)
    rows = _with_runs(collection, list(collection.rows))
    made = (
        f"Ours: mean and standard deviation, {_seeds(collection, rows)}."
        if rows
        else "None of our runs is complete yet."
    )
    published = any(
        not np.isnan(p["papers"].get(c.key, np.nan)) for points in lines.values() for p in points for c in columns
    )
    sources = sorted(
        {line.source for table in tables for line in table.lines if line.source and "no figure" not in line.source}
    )
    caption = made + (f" Dashed: published ({'; '.join(sources)})." if published else "")
    return style.picture(canvas, name, figure.title, caption)


def _curve_lines(collection: Collection, tables: list[Table], figure: FigureSpec) -> dict[str, list[dict[str, Any]]]:
    x_setting, line_setting = figure.options["x"], figure.options.get("lines")
    numbers = {canonical(key): value for key, value in figure.options.get("numbers", {}).items()}
    names = {canonical(key): value for key, value in figure.options.get("labels", {}).items()}
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in (line for table in tables for line in table.lines):
        value = _setting_of(collection, line.row, x_setting)
        x = numbers.get(value, value)
        try:
            x = float(x)
        except ValueError:
            continue
        which = line.row.row.key if line_setting is None else _setting_of(collection, line.row, line_setting)
        label = names.get(which, line.row.row.label.split("{")[0].rstrip(" ,") if line_setting is None else which)
        papers = {cell.column.key: cell.published for cell in line.cells if cell.published is not None}
        runs = collection.complete(line.row.key)
        if len(runs) or papers:
            lines.setdefault(label, []).append({"x": x, "runs": runs, "papers": papers})
    return {label: sorted(points, key=lambda point: point["x"]) for label, points in lines.items()}


def _setting_of(collection: Collection, row: TableRow, setting: str) -> str:
    """What the row says of a setting: by its `each`, by its `where`, or by its runs when they agree."""
    if setting in row.values:
        return row.values[setting]
    if setting in row.row.where and not isinstance(row.row.where[setting], list):
        return canonical(row.row.where[setting])
    found = set(collection.runs_of(row.key)[f"setting.{setting}"])
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
            label=f"{label}, published",
        )


def _ticks(axis: Axes, figure: FigureSpec, lines: Mapping[str, list[dict[str, Any]]]) -> None:
    values = sorted({point["x"] for points in lines.values() for point in points})
    if len(values) <= 8:
        axis.set_xticks(values, [f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}" for value in values])


def _legend(axes: list[Axes]) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


# ------------------------------------------------------------------------------------------------ decisions


def _training(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    """Acceptance rate and contribution against the iteration, in twenty bins."""
    rows = {row: found for row in collection.rows if (found := decisions_of(collection, row))}
    if not rows:
        return "no complete run has logged decisions"
    deciding = {row: runs for row, runs in rows.items() if any(run["contribution"].notna().any() for run in runs)}
    canvas, axes = style.canvas(2.8, 2 if deciding else 1)
    for place, (row, runs) in enumerate(rows.items()):
        label = spec.label_in_group(row.label, row.group)
        middle, accepted = _binned(runs, "accepted")
        axes[0].plot(middle, 100 * accepted.mean(0), color=colour(place), label=label)
        if row in deciding:
            middle, contribution = _binned(runs, "contribution")
            axes[1].plot(middle, contribution.mean(0), color=colour(place), label=label)
            axes[1].fill_between(
                middle, contribution.min(0), contribution.max(0), color=colour(place), alpha=0.15, lw=0
            )
            middle, threshold = _binned(runs, "threshold")
            axes[1].plot(middle, threshold.mean(0), color=colour(place), lw=1, ls=(0, (2, 2)))
    axes[0].set_title("accepted, %")
    axes[0].set_ylim(-3, 103)
    if deciding:
        axes[1].set_title("contribution")
    for axis in axes:
        axis.set_xlabel("iteration")
    canvas.legend(*_legend(axes[:1]), loc="outside upper left", ncols=3)
    caption = f"From the decision logs of {_seeds(collection, list(rows))}, in twenty bins, mean over seeds"
    caption += "; the band spans the seeds and the dotted line is the threshold." if deciding else "."
    return style.picture(canvas, name, figure.title, caption)


def _binned(runs: list[pd.DataFrame], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Middles of twenty bins of iterations (those without a decision left out), and the bins' means, (runs, bins)."""
    last = max(run["iteration"].max() for run in runs)
    edges = np.linspace(0, last, 21)
    means = []
    for run in runs:
        which = np.clip(np.digitize(run["iteration"], edges, right=True) - 1, 0, 19)
        grouped = run[column].astype(float).groupby(which).mean()
        means.append(grouped.reindex(range(20)).to_numpy())
    table = np.array(means)
    known = ~np.isnan(table).any(0)
    return ((edges[1:] + edges[:-1]) / 2)[known], table[:, known]


def _roc(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    """The contribution's ROC against the pool's hidden truth, the seeds' decisions taken together."""
    import pandas as pd

    canvas, (axis,) = style.canvas(3.6)
    drawn: list[TableRow] = []
    for row in collection.rows:
        curve = roc(pd.concat(found)) if (found := decisions_of(collection, row)) else None
        if curve is not None:
            shade = colour(len(drawn))
            axis.plot(
                curve.x,
                curve.y,
                color=shade,
                label=f"{spec.label_in_group(row.label, row.group)}, area {curve.area:.2f}",
            )
            drawn.append(row)
    if not drawn:
        return "no complete run has both contributions and the hidden truth of its pool"
    axis.plot([0, 1], [0, 1], color=RULE, lw=1, zorder=0.5)
    axis.set_aspect("equal")
    axis.set(
        xlabel="share of bad instances kept",
        ylabel="share of clean instances kept",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axis.legend(loc="lower right")
    caption = (
        "Every threshold on the contribution, against the hidden truth of the embedded dataset's pool; an image's "
        f"contribution counts for each of its pasted instances. {_seeds(collection, drawn)}, taken together; the "
        "diagonal is chance."
    )
    return style.picture(canvas, name, figure.title, caption)


# ------------------------------------------------------------------------------------------------ categories, cost


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
        return "no complete run has per-category figures beside those of its baseline"
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
        "group's mean; a dot is a category or, where there are more than 60, the thick line the middle half of them "
        "and the thin one the middle nine tenths. From per_category.parquet beside the records."
    )
    return style.picture(canvas, name, figure.title, caption)


def _spread(axis: Axes, place: int, values: np.ndarray) -> None:
    """The group's categories as dots, or as quantiles where dots would hide one another; and their mean."""
    if len(values) <= MOST_DOTS:
        jitter = np.random.default_rng(place).uniform(-0.2, 0.2, len(values))
        axis.plot(values, place + jitter, "o", ms=4, mew=0, alpha=0.5, color=colour(0))
    else:
        low, lower, upper, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
        axis.plot([low, high], [place] * 2, color=colour(0), lw=0.9, alpha=0.6)
        axis.plot([lower, upper], [place] * 2, color=colour(0), lw=5, alpha=0.45, solid_capstyle="butt")
    axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=colour(0), lw=2.2, solid_capstyle="butt")


def _row_axis(axis: Axes, rows: int) -> None:
    """An axis with a row of the table at every integer, the first on top."""
    axis.set_ylim(rows - 0.45, -0.55)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.locator_params(axis="x", nbins=4)


def category_ap(folder: Path, iou: str) -> pd.DataFrame | None:
    """A run's AP in percent by category_id, with name and frequency; None without per_category.parquet."""
    import pandas as pd

    path = folder / "per_category.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(path, columns=["iou_type", "category_id", "name", "frequency", "AP"])
    table = table[table["iou_type"].astype(str) == iou].set_index("category_id")
    return table.assign(AP=100 * table["AP"].astype(float))


def _category_difference(collection: Collection, row: TableRow, other: TableRow, iou: str) -> pd.DataFrame | None:
    import pandas as pd

    ours, theirs = collection.complete(row.key)["run_id"], collection.complete(other.key)["run_id"]
    found, groups = [], None
    for seed in ours.index.intersection(theirs.index):
        mine, base = (category_ap(collection.folder / runs[seed], iou) for runs in (ours, theirs))
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
        return "no complete run has both its time and its baseline's"
    canvas, axes = style.canvas(3.2, len(points))
    for axis, (table, found) in zip(axes, points.items(), strict=True):
        for place, (row, time, metric) in found.items():
            spread: Any = {"xerr": np.nan_to_num(time.sd), "yerr": np.nan_to_num(metric.sd), "elinewidth": 1}
            look: Any = {"color": colour(place), "marker": marker(place), "ms": 5.5, "ls": "", "label": row.label}
            axis.errorbar(time.mean, metric.mean, **spread, **look)
        axis.axvline(1, color=MUTED, lw=0.9, ls=(0, (3, 3)), zorder=0.5)
        axis.set_title(" · ".join(part for part in (table.heading, heading(column)) if part))
        axis.locator_params(axis="x", nbins=5)
    canvas.supxlabel(f"time of a step over that of {spec.label_of(spec.baselines[0])}", fontsize=8.5, color=MUTED)
    canvas.legend(*_legend(axes), loc="outside upper left", ncols=3)
    rows = [row for found in points.values() for row, _, _ in found.values()]
    caption = f"Mean and standard deviation over seeds, {_seeds(collection, rows)}; training time from the records."
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
    "curve": _curve,
    "training": _training,
    "categories": _categories,
    "cost": _cost,
    "roc": _roc,
}
