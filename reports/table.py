"""The runs of a report -> tables of cells: one table a group, one line a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.collect import Collection, TableRow, states
from reports.differences import (
    Differences,
    Verdict,
    baseline_row,
    find_differences,
    find_verdicts,
    is_primary,
    of_shared_seeds,
)
from reports.published import find_published, found_elsewhere
from reports.recovery import Recovery, find_recoveries
from reports.spec import Column, Spec
from reports.statistics import RATE, Difference, Summary, summarise

if TYPE_CHECKING:
    import pandas as pd

NO_SOURCE = "no figure in any source we have"


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
    "stale": Mark("s", "a run is stale: its configuration or code has changed since"),
    "unfinished": Mark("u", "a run has not finished"),
    "single seed": Mark("1", "a single seed", counts=False),
    "other images": Mark("e", "evaluated on other validation images, so not compared"),
    "other machine": Mark(
        "h", "timed on a different machine from the baseline's, or under a different load", counts=False
    ),
}
OF_TIME = "other machine"  # says nothing of AP
LOADS_APART = 0.25  # of a core's time: processes waiting on each core, from which on times are not compared unmarked


@dataclass(frozen=True)
class Cell:
    """differences: by the baseline's row key; verdict: of the first one, in the primary column. published: the papers'
    figure; mean - published is its difference."""

    column: Column
    summary: Summary
    differences: Mapping[str, Difference]
    verdict: Verdict | None = None
    published: float | None = None
    marks: tuple[str, ...] = ()

    @property
    def star(self) -> bool:
        """Whether the verdict calls the difference from the first baseline significant."""
        return self.verdict is not None and self.verdict.p <= RATE

    @property
    def equal(self) -> bool:
        """Whether the verdict calls the row equivalent to the first baseline."""
        return self.verdict is not None and self.verdict.equivalent <= RATE

    @property
    def published_difference(self) -> float | None:
        """Our mean minus the papers' figure; None without either."""
        return None if self.published is None or not self.summary.n else self.summary.mean - self.published


@dataclass(frozen=True)
class Line:
    """complete of expected runs; marks: how many runs each is about. source: where the published figures are, and
    variant: of what; elsewhere: published rows of other sources that say otherwise; unpublished: the row asks for
    published figures, but no source that we have gives them. recovery: what it has of the oracle's gain."""

    row: TableRow
    cells: tuple[Cell, ...]
    complete: int
    expected: int
    marks: Mapping[str, int]
    source: str = ""
    variant: str = ""
    elsewhere: tuple[Mapping[str, Any], ...] = ()
    unpublished: bool = False
    recovery: Recovery | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """One group's table; `group` is None in a report without groups."""

    group: str | None
    heading: str
    lines: tuple[Line, ...]


def build_tables(spec: Spec, collection: Collection, published: pd.DataFrame) -> list[Table]:
    """One table for each group that the spec names (a single one without). Raises ValueError for a table whose
    published figures come from several sources, those of rows that name their own aside."""
    found = find_differences(spec, collection)
    verdicts = find_verdicts(spec, found)
    recovered = find_recoveries(spec, collection)
    tables = []
    for group in spec.group_values or [None]:
        rows = [row for row in collection.rows if row.group == group]
        lines = [
            replace(_line(spec, collection, row, published, found, verdicts), recovery=recovered.get(row.key))
            for row in rows
        ]
        table = Table(group, spec.group_values.get(group or "", ""), tuple(lines))
        unnamed = [line for line in lines if line.source and "table" not in (line.row.row.published or {})]
        if len(sources := sorted({line.source for line in unnamed})) > 1:
            raise ValueError(
                f"report {spec.name}: the rows of {table.heading or 'its table'} are compared with figures of several "
                f"sources ({'; '.join(sources)}); name one of their tables: `published: TABLE`, or each row's"
            )
        tables.append(table)
    return tables


def time_ratio(runs: pd.DataFrame, baseline: pd.DataFrame | None) -> pd.Series:
    """Seconds a step over the baseline's, seed by seed, where both were taken by the same clock."""
    if baseline is None:
        return runs["seconds_per_step"] * float("nan")
    ratio = runs["seconds_per_step"] / baseline["seconds_per_step"]
    seeds = ratio.index.intersection(runs.index).intersection(baseline.index)
    same = runs["clock"][seeds] == baseline["clock"][seeds]
    return ratio[seeds].where(same)


def _line(
    spec: Spec,
    collection: Collection,
    row: TableRow,
    published: pd.DataFrame,
    found: Differences,
    verdicts: Mapping[str, Verdict],
) -> Line:
    runs, done = collection.runs_of(row.key), collection.complete(row.key)
    paper = _published(spec, row, published)
    marks = _marks(runs, len(done)) | _marks_beside_baseline(spec, collection, row)
    cells = []
    for column in spec.columns:
        known = {key: found.get((row.key, key, column.key)) for key in spec.baselines}
        stated = {key: difference for key, difference in known.items() if difference is not None}
        summary = summarise(_values(spec, collection, row, column))
        verdict = verdicts.get(row.key) if is_primary(spec, column) else None
        own = tuple(mark for mark in marks if column.key == "time_ratio" or mark != OF_TIME)
        cells.append(Cell(column, summary, stated, verdict, _figure(paper, column), own))
    source = "" if paper is None else str(paper["source"])
    variant = "" if paper is None else _word(paper.get("variant"))
    unpublished = row.row.published is not None and paper is None
    elsewhere = () if paper is None else tuple(found_elsewhere(published, paper))
    return Line(row, tuple(cells), len(done), len(runs), marks, source, variant, elsewhere, unpublished)


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


def _marks_beside_baseline(spec: Spec, collection: Collection, row: TableRow) -> dict[str, int]:
    """What keeps the row's runs from being compared with the first baseline's."""
    other = baseline_row(collection, row, spec.baselines[0]) if spec.baselines else None
    ours = collection.complete(row.key)
    theirs = ours if other is None else collection.complete(other.key)
    if ours.empty or theirs.empty:
        return {}
    evaluated = Counter(theirs["evaluated"].to_numpy())
    usual = min(evaluated, key=lambda each: (-evaluated[each], each))
    found = {"other images": int((ours["evaluated"].to_numpy() != usual).sum())}
    ours, theirs = of_shared_seeds(ours, theirs)
    apart = (ours["load"].to_numpy() - theirs["load"].to_numpy()).astype(float)
    elsewhere = (ours["machine"].to_numpy() != theirs["machine"].to_numpy()).any()
    found[OF_TIME] = int(elsewhere or (np.abs(apart) > LOADS_APART).any())
    return {mark: count for mark, count in found.items() if count}


def _published(spec: Spec, row: TableRow, published: pd.DataFrame) -> dict[str, Any] | None:
    if row.row.published is None:
        return None
    wanted = dict(row.row.published)
    if row.group in spec.published:
        wanted.setdefault("table", spec.published[row.group])
    if spec.group and row.group and spec.group in published.columns:
        wanted.setdefault(spec.group, row.group)
    return find_published(published, wanted)


def _figure(paper: Mapping[str, Any] | None, column: Column) -> float | None:
    value = None if paper is None else paper.get(column.key)
    return None if value is None or math.isnan(value) else float(value)


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def published_sources(tables: list[Table]) -> list[str]:
    """Where the published figures beside ours come from."""
    return sorted({line.source for table in tables for line in table.lines if line.source})


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
            if spec.gain is not None:
                entry |= _recovered(line.recovery)
            entry["published_source"] = NO_SOURCE if line.unpublished else line.source
            entry["published_variant"] = line.variant
            entries.append(entry)
    return pd.DataFrame(entries)


def _recovered(recovery: Recovery | None) -> dict[str, Any]:
    known = recovery or Recovery(math.nan, math.nan, math.nan, 0)
    return {"recovered": known.share, "recovered.low": known.low, "recovered.high": known.high, "recovered.n": known.n}


def _flat(cell: Cell) -> dict[str, Any]:
    name, summary = cell.column.key, cell.summary
    flat: dict[str, Any] = {name: summary.mean, f"{name}.sd": summary.sd, f"{name}.n": summary.n}
    if not cell.column.metric:
        return flat
    for key, difference in cell.differences.items():
        prefix = f"{name}.minus_{key}"
        flat |= {prefix: difference.mean, f"{prefix}.low": difference.low, f"{prefix}.high": difference.high}
        flat |= {f"{prefix}.n": difference.n, f"{prefix}.p": difference.p}
        flat |= {f"{prefix}.p_equivalent": difference.equivalent, f"{prefix}.over_images": difference.over_images}
    if cell.verdict is not None:
        flat |= {f"{name}.p_holm": cell.verdict.p, f"{name}.p_equivalent_holm": cell.verdict.equivalent}
    flat[f"{name}.star"] = cell.star
    flat[f"{name}.published"] = cell.published
    flat[f"{name}.minus_published"] = cell.published_difference
    return flat
