"""The runs of a report -> tables of cells: one table a group, one line a row."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.collect import Collection, TableRow, states
from reports.images import ImageIntervals
from reports.published import find_published
from reports.spec import Column, Spec
from reports.statistics import Difference, Summary, differences, discoveries, paired, summarise

if TYPE_CHECKING:
    import pandas as pd

NO_SOURCE = "no figure in any source at hand"


@dataclass(frozen=True)
class Mark:
    """What keeps a cell from being plain: the letter it is marked with, and what that means.

    counts: whether the number of such runs says more than the mark.
    """

    letter: str
    meaning: str
    counts: bool = True


MARKS = {
    "missing": Mark("m", "a run is missing"),
    "failed": Mark("f", "a run failed"),
    "stale": Mark("s", "a run is stale (configuration or code changed since)"),
    "unfinished": Mark("u", "a run has not ended"),
    "single seed": Mark("1", "a single seed", counts=False),
}


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
    """complete of expected runs; marks: how many runs each is about. source: where the published figures stand;
    unpublished: the row asks for published figures, and no source at hand has them."""

    row: TableRow
    cells: tuple[Cell, ...]
    complete: int
    expected: int
    marks: Mapping[str, int]
    source: str = ""
    unpublished: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    group: str | None
    heading: str
    lines: tuple[Line, ...]


# By key of the row, key of the baseline in the spec, and key of the column.
Differences = Mapping[tuple[str, str, str], Difference]


def build_tables(spec: Spec, collection: Collection, published: pd.DataFrame) -> list[Table]:
    """One table for each group that the spec names (a single one without)."""
    differences = _differences(spec, collection)
    tables = []
    for group in spec.group_values or [None]:
        rows = [row for row in collection.rows if row.group == group]
        lines = [_line(spec, collection, row, published, differences) for row in rows]
        tables.append(Table(group, spec.group_values.get(group or "", ""), tuple(_with_stars(spec, lines))))
    return tables


def baseline_row(collection: Collection, row: TableRow, key: str) -> TableRow | None:
    """The row of this spec key that stands in the same group and shares the values of common `each` settings."""
    for other in collection.by_spec_row.get((key, row.group), []):
        shared = set(other.values) & set(row.values)
        if all(other.values[setting] == row.values[setting] for setting in shared):
            return other
    return None


def time_ratio(runs: pd.DataFrame, baseline: pd.DataFrame | None) -> pd.Series:
    """Seconds a step over the baseline's, seed by seed."""
    seconds = runs["seconds_per_step"]
    return seconds / (baseline["seconds_per_step"] if baseline is not None else float("nan"))


def _differences(spec: Spec, collection: Collection) -> Differences:
    """Of every row to every baseline in every metric, with their intervals."""
    images = ImageIntervals(collection.folder, spec.intervals)
    metrics = [column for column in spec.columns if column.metric]
    done = {row.key: collection.complete(row.key) for row in collection.rows}
    tables = {key: runs[[column.key for column in metrics]].to_numpy(float) for key, runs in done.items()}
    seeds = {key: runs.index.to_numpy() for key, runs in done.items()}
    found: dict[tuple[str, str, str], np.ndarray] = {}
    over_images: dict[tuple[str, str, str], tuple[float, float]] = {}
    for row, baseline in itertools.product(collection.rows, spec.baselines):
        other = baseline_row(collection, row, baseline)
        if other is None or other is row:
            continue
        pairs = paired(tables[row.key], tables[other.key], seeds[row.key], seeds[other.key])
        for column, values in zip(metrics, pairs, strict=True):
            key = (row.key, baseline, column.key)
            found[key] = values
            if spec.intervals.over == "images":
                over_images[key] = images.of(done[row.key]["run_id"], done[other.key]["run_id"], column)
    known = zip(found, differences(list(found.values()), spec.intervals.resamples, spec.intervals.level), strict=True)
    result = {key: difference for key, difference in known if difference is not None}
    for key, (low, high) in over_images.items():
        if key in result:
            result[key] = replace(result[key], low=low, high=high)
    return result


def _line(spec: Spec, collection: Collection, row: TableRow, published: pd.DataFrame, differences: Differences) -> Line:
    runs, done = collection.runs_of(row.key), collection.complete(row.key)
    paper = _published(spec, row, published)
    marks = _marks(runs, len(done))
    cells = []
    for column in spec.columns:
        known = {key: differences.get((row.key, key, column.key)) for key in spec.baselines}
        stated = {key: difference for key, difference in known.items() if difference is not None}
        summary = summarise(_values(spec, collection, row, column))
        cells.append(Cell(column, summary, stated, published=_figure(paper, column), marks=tuple(marks)))
    source = "" if paper is None else str(paper["source"])
    unpublished = row.row.published is not None and paper is None
    return Line(row, tuple(cells), len(done), len(runs), marks, source, unpublished)


def _values(spec: Spec, collection: Collection, row: TableRow, column: Column) -> np.ndarray:
    """The row's figures, as they are shown."""
    done = collection.complete(row.key)
    if column.key != "time_ratio":
        return done[column.key].to_numpy(float) * column.scale
    other = baseline_row(collection, row, spec.baselines[0]) if spec.baselines else None
    return time_ratio(done, None if other is None else collection.complete(other.key)).to_numpy(float)


def _marks(runs: list[dict[str, Any]], complete: int) -> dict[str, int]:
    counted = states(runs)
    unfinished = sum(counted[state] for state in ("running", "waiting", "interrupted"))
    found = Counter(missing=counted["missing"], failed=counted["failed"], stale=counted["stale"], unfinished=unfinished)
    found["single seed"] = int(complete == 1)
    if not len(runs):
        found["missing"] = 1
    return {mark: found[mark] for mark in MARKS if found[mark]}


def _published(spec: Spec, row: TableRow, published: pd.DataFrame) -> dict[str, Any] | None:
    if row.row.published is None:
        return None
    wanted = dict(row.row.published)
    if spec.group and row.group and spec.group in published.columns:
        wanted.setdefault(spec.group, row.group)
    return find_published(published, wanted)


def _figure(paper: Mapping[str, Any] | None, column: Column) -> float | None:
    value = None if paper is None else paper.get(column.key)
    return None if value is None or math.isnan(value) else float(value)


def published_sources(tables: list[Table]) -> list[str]:
    """Where the published figures beside ours stand."""
    return sorted({line.source for table in tables for line in table.lines if line.source})


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
                f"{count} {mark}" if MARKS[mark].counts else mark for mark, count in line.marks.items()
            )
            for cell in line.cells:
                entry |= _flat(cell)
            entry["published_source"] = NO_SOURCE if line.unpublished else line.source
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
