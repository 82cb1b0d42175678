"""The runs of a report -> tables of cells: one table a group, one line a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reports.collect import Collection, TableRow, states
from reports.images import ImageIntervals
from reports.published import find_published
from reports.spec import Column, Spec
from reports.statistics import Difference, Summary, discoveries, paired_difference, summarise

if TYPE_CHECKING:
    import pandas as pd

# What keeps a cell from being plain, in words, and the letter it is marked with.
MARKS = {"missing": "m", "failed": "f", "stale": "s", "unfinished": "u", "single seed": "1"}


@dataclass(frozen=True)
class Cell:
    """differences: by the baseline's row key. published: the papers' figure; mean - published is its difference."""

    column: Column
    summary: Summary
    differences: Mapping[str, Difference]
    star: bool = False
    published: float | None = None
    marks: tuple[str, ...] = ()

    @property
    def published_difference(self) -> float | None:
        return None if self.published is None or not self.summary.n else self.summary.mean - self.published


@dataclass(frozen=True)
class Line:
    """complete of expected runs; source: where the published figures stand, or that there are none."""

    row: TableRow
    cells: tuple[Cell, ...]
    complete: int
    expected: int
    marks: Mapping[str, int]
    source: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    group: str | None
    heading: str
    lines: tuple[Line, ...]


# From the runs of a row and of its baseline: a column's paired difference with its interval.
Compare = Callable[["pd.DataFrame", "pd.DataFrame", Column], "Difference | None"]


def build_tables(spec: Spec, collection: Collection, published: pd.DataFrame) -> list[Table]:
    """One table for each group that the spec names (a single one without)."""
    tables = []
    compare = _comparison(spec, collection)
    for group in spec.group_values or [None]:
        rows = [row for row in collection.rows if row.group == group]
        lines = [_line(spec, collection, row, published, compare) for row in rows]
        tables.append(Table(group, spec.group_values.get(group or "", ""), tuple(_with_stars(spec, lines))))
    return tables


def baseline_row(collection: Collection, row: TableRow, key: str) -> TableRow | None:
    """The row of this spec key that stands in the same group and shares the values of common `each` settings."""
    for other in collection.rows:
        shared = set(other.values) & set(row.values)
        if other.row.key == key and other.group == row.group and all(other.values[s] == row.values[s] for s in shared):
            return other
    return None


def time_ratio(runs: pd.DataFrame, baseline: pd.DataFrame | None) -> pd.Series:
    """Seconds a step over the baseline's, seed by seed."""
    seconds = runs["seconds_per_step"]
    return seconds / (baseline["seconds_per_step"] if baseline is not None else float("nan"))


def _comparison(spec: Spec, collection: Collection) -> Compare:
    images = ImageIntervals(collection.folder, spec.intervals)

    def compare(ours: pd.DataFrame, baseline: pd.DataFrame, column: Column) -> Difference | None:
        difference = paired_difference(
            ours[column.key], baseline[column.key], spec.intervals.resamples, spec.intervals.level
        )
        if difference is None or spec.intervals.over == "seeds":
            return difference
        low, high = images.of(ours["run_id"], baseline["run_id"], column)
        return replace(difference, low=low, high=high)

    return compare


def _line(spec: Spec, collection: Collection, row: TableRow, published: pd.DataFrame, compare: Compare) -> Line:
    runs, done = collection.runs_of(row.key), collection.complete(row.key)
    others = {key: baseline_row(collection, row, key) for key in spec.baselines}
    baselines = {key: collection.complete(other.key) for key, other in others.items() if other is not None}
    paper, source = _published(spec, row, published)
    marks = _marks(runs, len(done))
    cells = []
    for column in spec.columns:
        cell = _cell(column, row, done, baselines, compare)
        cell = replace(cell, published=_figure(paper, column), marks=tuple(marks))
        cells.append(cell)
    return Line(row, tuple(cells), len(done), len(runs), marks, source)


def _cell(
    column: Column, row: TableRow, done: pd.DataFrame, baselines: Mapping[str, pd.DataFrame], compare: Compare
) -> Cell:
    if column.key == "time_ratio":
        first = next(iter(baselines.values()), None)
        return Cell(column, summarise(time_ratio(done, first)), {})
    differences = {}
    for key, baseline in baselines.items() if column.metric else ():
        difference = compare(done, baseline, column) if key != row.row.key else None
        if difference is not None:
            differences[key] = difference
    return Cell(column, summarise(done[column.key] * column.scale), differences)


def _marks(runs: pd.DataFrame, complete: int) -> dict[str, int]:
    counted = states(runs)
    unfinished = sum(counted[state] for state in ("running", "waiting", "interrupted"))
    found = Counter(missing=counted["missing"], failed=counted["failed"], stale=counted["stale"], unfinished=unfinished)
    found["single seed"] = int(complete == 1)
    if not len(runs):
        found["missing"] = 1
    return {mark: found[mark] for mark in MARKS if found[mark]}


def _published(spec: Spec, row: TableRow, published: pd.DataFrame) -> tuple[dict[str, Any] | None, str]:
    if row.row.published is None:
        return None, ""
    wanted = dict(row.row.published)
    if spec.group and row.group and spec.group in published.columns:
        wanted.setdefault(spec.group, row.group)
    found = find_published(published, wanted)
    return found, "no figure in any source at hand" if found is None else str(found["source"])


def _figure(paper: Mapping[str, Any] | None, column: Column) -> float | None:
    value = None if paper is None else paper.get(column.key)
    return None if value is None or math.isnan(value) else float(value)


def _with_stars(spec: Spec, lines: list[Line]) -> list[Line]:
    """Marks the differences to the first baseline that stand among all rows of the table, column by column."""
    if not spec.baselines:
        return lines
    first = spec.baselines[0]
    columns = []
    for index in range(len(spec.columns)):
        tests = [line.cells[index].differences.get(first) for line in lines]
        columns.append(discoveries([float("nan") if test is None else test.p for test in tests]))
    return [
        replace(line, cells=tuple(replace(cell, star=columns[i][place]) for i, cell in enumerate(line.cells)))
        for place, line in enumerate(lines)
    ]


def to_frame(spec: Spec, tables: list[Table]) -> pd.DataFrame:
    """The tables as one flat frame, a line each, unrounded: what the CSV holds."""
    import pandas as pd

    entries = []
    for table in tables:
        for line in table.lines:
            entry: dict[str, Any] = {spec.group: table.group} if spec.group else {}
            entry |= {"row": line.row.row.key, "label": line.row.label, **line.row.values}
            entry |= {"complete": line.complete, "expected": line.expected}
            entry["marks"] = ", ".join(
                f"{count} {mark}" if mark != "single seed" else mark for mark, count in line.marks.items()
            )
            for cell in line.cells:
                entry |= _flat(cell)
            entry["published_source"] = line.source
            entries.append(entry)
    return pd.DataFrame(entries)


def _flat(cell: Cell) -> dict[str, Any]:
    name, summary = cell.column.key, cell.summary
    flat: dict[str, Any] = {name: summary.mean, f"{name}.sd": summary.sd, f"{name}.n": summary.n}
    if not cell.column.metric:
        return flat
    for key, difference in cell.differences.items():
        prefix = f"{name}.minus_{key}"
        flat |= {prefix: difference.mean, f"{prefix}.low": difference.low, f"{prefix}.high": difference.high}
        flat |= {f"{prefix}.n": difference.n, f"{prefix}.p": difference.p}
    flat[f"{name}.star"] = cell.star
    flat[f"{name}.published"] = cell.published
    flat[f"{name}.minus_published"] = cell.published_difference
    return flat
