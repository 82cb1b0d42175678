"""Records and manifests -> the runs of a report, found or expected, each with its row, seed, state and figures.

A run's state is `complete`, or what keeps it from being so: `failed`, `running`, `waiting`, `interrupted`, `missing`.
A complete run is also `stale` when a sweep now expects another run in its place (the configuration changed) or when
it was made by other code than the newest record of the report.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from harness.record.manifest import ExpectedRun, read_manifests
from harness.record.reading import Damaged
from harness.record.record import Record, Status, read_records
from reports.spec import IOU_TYPES, METRICS, Row, Spec

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

STEP_CLOCKS = {"gpu": "step_gpu_seconds", "cpu": "step_cpu_seconds"}  # and where the record has them
MOST_RUNS = 500  # of a report whose runs' larger files are read: matches, categories, metrics, pictures
MEASURED = [(f"{metric}_{kind}", iou, metric) for kind, iou in IOU_TYPES.items() for metric in METRICS]
ABSENT = "—"  # the value of a setting that a run does not have


@dataclass(frozen=True, eq=False)
class TableRow:
    """A row of one table: the spec's row, under one group, with the values of its `each` settings."""

    key: str  # unique in the report
    row: Row
    group: str | None
    label: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A run of the report. record is None if there is none; superseded runs are listed but never counted; overrides
    compose the run, if a sweep's manifest or its record has them."""

    run_id: str
    settings: Mapping[str, Any]
    seed: int | None
    state: str
    record: Record | None
    stale: str = ""
    superseded: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """What a report is made from.

    entries: of each row (TableRow.key), one a run: row, seed, run_id, state, stale, superseded, the columns of
    `figures_of`, the spec's settings and `run`, the Run itself. frame: the same as a table. damaged: a sentence for
    each damaged file that `tolerant` readers met.
    """

    rows: list[TableRow]
    entries: Mapping[str, list[dict[str, Any]]]
    frame: pd.DataFrame
    folder: Path
    sweeps: list[str]
    damaged: list[str] = field(default_factory=list)

    def tolerant(self, read: Callable[P, T | None]) -> Callable[P, T | None]:
        """Wraps a reader of a file beside a record: for a damaged file it returns None and notes the file, so that the
        report covers the other runs."""

        def tried(*args: P.args, **options: P.kwargs) -> T | None:
            try:
                return read(*args, **options)
            except (Damaged, OSError) as damage:
                if str(damage) not in self.damaged:
                    log.warning("%s", damage)
                    self.damaged.append(str(damage))
                return None

        return tried

    @cached_property
    def by_spec_row(self) -> dict[tuple[str, str | None], list[TableRow]]:
        """The rows by their spec's key and group."""
        found: dict[tuple[str, str | None], list[TableRow]] = {}
        for row in self.rows:
            found.setdefault((row.row.key, row.group), []).append(row)
        return found

    @cached_property
    def _complete(self) -> dict[str, pd.DataFrame]:
        done = self.frame[~self.frame["superseded"] & (self.frame["state"] == "complete")]
        done = done.set_index("seed").sort_index().copy()  # joins columns of a type, or each row's copy would
        # Copies: pandas keeps a list of all views of one frame, and a thousand of them make each access slow.
        return {str(key): runs.copy() for key, runs in done.groupby("row", sort=False)}

    @cached_property
    def _nothing(self) -> pd.DataFrame:
        return self.frame.iloc[:0].set_index("seed", drop=False)

    def runs_of(self, key: str) -> list[dict[str, Any]]:
        """Those of the row's runs that count."""
        return [entry for entry in self.entries[key] if not entry["superseded"]]

    def complete(self, key: str) -> pd.DataFrame:
        """The row's complete runs by seed."""
        return self._complete.get(key, self._nothing)

    def with_runs(self, rows: Iterable[TableRow]) -> list[TableRow]:
        """Those of the rows that have a complete run."""
        return [row for row in rows if len(self.complete(row.key))]

    def seeds_of(self, rows: Iterable[TableRow]) -> str:
        """How many complete seeds the rows have, in words."""
        counts = sorted({len(self.complete(row.key)) for row in self.with_runs(rows)})
        if not counts:
            return "no seeds"
        plural = "s" if counts[-1] > 1 else ""
        return f"{counts[0]} to {counts[-1]} seeds a row" if len(counts) > 1 else f"{counts[0]} seed{plural} a row"


def collect(spec: Spec, folder: Path) -> Collection:
    """Everything below `folder` that belongs to the report. Raises ValueError for a label with an unknown field."""
    import pandas as pd

    records = [record for record in read_records(folder) if not record.stage]
    sweeps, expected = _expected_runs(spec, folder)
    runs = _join(records, expected)
    runs = _matching(spec.filters, runs)
    rows, entries = [], []
    assigned = [(row, _resolve(chosen, expected)) for row, chosen in _assign(spec, runs)]
    present = {row.row.key for row, chosen in assigned if chosen}
    for row, chosen in assigned:
        if sweeps and not chosen and row.row.key in present:
            continue  # the sweeps have it in other groups alone
        if row.values and all(run.superseded for run in chosen):
            continue  # a value that runs of other sweeps alone have makes no row
        rows.append(row)
        entries += [_entry(spec, row, run) for run in chosen]
    if not sweeps:
        entries += _inferred_missing(spec, rows, entries)
    _mark_old_code(entries)
    by_row: dict[str, list[dict[str, Any]]] = {row.key: [] for row in rows}
    for entry in entries:
        by_row[entry["row"]].append(entry)
    frame = pd.DataFrame(entries, columns=_columns(spec)).astype({"superseded": bool})
    return Collection(rows, by_row, frame, folder, sweeps)


def figures_of(record: Record) -> dict[str, float]:
    """The record's figures under the names of `spec.COLUMNS`, NaN where it has none."""
    figures = {key: _number(record.metrics.get(iou, {}).get(metric)) for key, iou, metric in MEASURED}
    cost = record.cost
    seconds, iterations = _number(cost.get("train_seconds")), _number(cost.get("iterations"))
    of_steps = _number(cost.get(STEP_CLOCKS.get(_clock(record), "train_seconds")))
    return figures | {
        "acceptance_rate": _number(record.statistics.get("acceptance_rate")),
        "seconds_per_step": of_steps / iterations if iterations else float("nan"),
        "load": _number(cost.get("load")),
        "train_minutes": seconds / 60,
        "peak_gpu_gb": _number(cost.get("peak_gpu_mb")) / 1024,
        "peak_host_gb": _number(cost.get("peak_host_mb")) / 1024,
    }


def _clock(record: Record) -> str:
    """Which clock timed the record's steps: the GPU's, the processor's, or else the wall clock."""
    return next((clock for clock, key in STEP_CLOCKS.items() if record.cost.get(key)), "wall")


def evaluated_on(record: Record) -> str:
    """Which validation images a run was evaluated on."""
    annotations = (record.provenance.get("fingerprints") or {}).get("val_annotations", "")
    return f"{annotations} {canonical(record.settings.get('evaluation.limit'))}"


def _circumstances(record: Record | None) -> dict[str, str]:
    """On which validation images and on what machine a run's figures were taken, and by which clock its steps."""
    if record is None:
        return {"evaluated": "", "machine": "", "clock": ""}
    hardware = record.provenance.get("hardware") or {}
    return {
        "evaluated": evaluated_on(record),
        "machine": str(hardware.get("gpu") or hardware.get("cpu") or ""),
        "clock": _clock(record),
    }


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else float("nan")
    except OverflowError:  # an integer of hundreds of digits
        return float("nan")


def _expected_runs(spec: Spec, folder: Path) -> tuple[list[str], dict[str, ExpectedRun]]:
    """The sweeps of this report that were started, and their runs by run_id."""
    ours = [m for m in read_manifests(folder) if spec.name in (m.sweep, m.report)]
    return [m.sweep for m in ours], {run.run_id: run for m in ours for run in m.runs if not run.stage}


def _join(records: list[Record], expected: Mapping[str, ExpectedRun]) -> list[Run]:
    runs = [_found(record, expected.get(record.run_id)) for record in records]
    left = {record.run_id for record in records}
    templates = {record.name: record.settings for record in records}
    for run in expected.values():
        if run.run_id not in left:
            settings = _settings_of(run, templates.get(run.name, {}))
            runs.append(Run(run.run_id, settings, _seed(settings), "missing", None, overrides=tuple(run.overrides)))
    return runs


def _found(record: Record, wanted: ExpectedRun | None) -> Run:
    # The same run may bear another name in another sweep, in which it was made.
    known = record.settings if wanted is None or record.settings else _settings_of(wanted, {})  # none where damaged
    settings = {**known, "name": wanted.name if wanted else record.name}
    state = "complete" if record.status is Status.complete else record.status.value
    overrides = tuple(wanted.overrides if wanted else record.provenance.get("overrides") or ())
    return Run(record.run_id, settings, _seed(settings), state, record, overrides=overrides)


def _settings_of(run: ExpectedRun, template: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run that left no record: its overrides and axes, the rest from a run of the same row."""
    overrides = dict(override.lstrip("+").split("=", 1) for override in run.overrides if "=" in override)
    return {**template, **overrides, **run.axes, "name": run.name}


def _seed(settings: Mapping[str, Any]) -> int | None:
    seed = settings.get("seed")
    return int(seed) if seed is not None and str(seed).lstrip("-").isdigit() else None


def canonical(value: Any) -> str:
    """One spelling for a setting from a record (true, 600000.0) and from an override ("True", "600000")."""
    if value is None:
        return ABSENT
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text


def _matching(where: Mapping[str, Any], runs: list[Run]) -> list[Run]:
    """The runs whose settings have these values, or one of several."""
    wanted = {
        key: {canonical(each) for each in values} if isinstance(values, list) else {canonical(values)}
        for key, values in where.items()
    }
    return [run for run in runs if all(canonical(run.settings.get(key)) in wanted[key] for key in wanted)]


def _assign(spec: Spec, runs: list[Run]) -> Iterable[tuple[TableRow, list[Run]]]:
    """Each table row with its runs, in the order of the groups and the spec's rows."""
    groups: list[str | None] = list(spec.group_values) if spec.group else [None]
    matching = {row.key: _matching(row.where, runs) for row in spec.rows}
    for group, row in itertools.product(groups, spec.rows):
        chosen = [r for r in matching[row.key] if group is None or _group_of(r, spec) == group]
        for values, part in _each(row, chosen):
            label = _label(row, values)
            parts = [row.key, *values.values(), *([group] if group else [])]
            yield TableRow("-".join(parts), row, group, label, values), part


def _group_of(run: Run, spec: Spec) -> str | None:
    return spec.group_of.get(canonical(run.settings.get(spec.group or "")))


def _each(row: Row, runs: list[Run]) -> Iterable[tuple[dict[str, str], list[Run]]]:
    if not row.each:
        return [({}, runs)]
    by_values: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        by_values.setdefault(tuple(canonical(run.settings.get(key)) for key in row.each), []).append(run)
    ordered = sorted(by_values.items(), key=lambda item: [_sort_key(value) for value in item[0]])
    return [(dict(zip(row.each, values, strict=True)), part) for values, part in ordered]


def _label(row: Row, values: Mapping[str, str]) -> str:
    """The row's label with the values of its `each` settings filled in: {method_scale} for method.scale."""
    if not row.each:
        return row.label
    known = {"{" + key.replace(".", "_") + "}": readable(value) for key, value in values.items()}
    parts = re.split(r"({[^{}]*})", row.label)  # no str.format, whose widths and attributes a label has no use for
    if any("{" in part or "}" in part for part in parts if part not in known):
        raise ValueError(f"the label '{row.label}' of the row '{row.key}' may name {', '.join(known)}")
    return "".join(known.get(part, part) for part in parts)


def _sort_key(value: str) -> tuple[int, float, str]:
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, value)


def readable(value: str) -> str:
    """600000 -> 600k: numbers of instances as the papers write them."""
    return f"{int(value) // 1000}k" if value.isdigit() and int(value) >= 1000 and int(value) % 1000 == 0 else value


def _resolve(runs: list[Run], expected: Mapping[str, ExpectedRun]) -> list[Run]:
    """One run a seed: the one that the sweep expects, else a stale one in its place, else the newest."""
    by_seed: dict[int | None, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    resolved: list[Run] = []
    for candidates in by_seed.values():
        ranked = sorted(candidates, key=lambda run: _rank(run, expected), reverse=True)
        best, rest = ranked[0], ranked[1:]
        if expected and best.run_id not in expected:
            wanted = any(run.run_id in expected for run in candidates)
            best = replace(best, stale="configuration changed" if wanted else "", superseded=not wanted)
        resolved += [best, *(replace(run, superseded=True) for run in rest)]
    return sorted(resolved, key=lambda run: (run.seed is None, run.seed or 0, run.superseded))


def _rank(run: Run, expected: Mapping[str, ExpectedRun]) -> tuple[bool, bool, bool, float]:
    """An expected run that left a record comes first, then any complete one, then whatever is expected."""
    ended = (run.record.ended or run.record.started or 0.0) if run.record else 0.0
    known = run.run_id in expected
    return (known and run.record is not None, run.state == "complete", known, ended)


def _entry(spec: Spec, row: TableRow, run: Run) -> dict[str, Any]:
    known = {
        "row": row.key,
        "seed": run.seed,
        "run_id": run.run_id,
        "state": run.state,
        "stale": run.stale,
        "superseded": run.superseded,
        "run": run,
    }
    figures = figures_of(run.record) if run.record else {}
    known |= _circumstances(run.record)
    return known | {f"setting.{key}": canonical(run.settings.get(key)) for key in spec.settings} | figures


def _columns(spec: Spec) -> list[str]:
    empty = figures_of(Record("", "", Status.complete))
    known = ["row", "seed", "run_id", "state", "stale", "superseded", "run", *_circumstances(None)]
    return [*known, *(f"setting.{key}" for key in spec.settings), *empty]


def _inferred_missing(spec: Spec, rows: list[TableRow], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without a manifest: a seed that another row of the same group has, and this one lacks, is missing."""
    seeds: dict[str, set[int]] = {row.key: set() for row in rows}
    for entry in entries:
        if entry["seed"] is not None:
            seeds[entry["row"]].add(entry["seed"])
    of_group: dict[str | None, set[int]] = {row.group: set() for row in rows}
    for row in rows:
        of_group[row.group] |= seeds[row.key]
    return [
        _entry(spec, row, Run("", {**row.row.where, **row.values, "seed": seed}, seed, "missing", None))
        for row in rows
        for seed in sorted(of_group[row.group] - seeds[row.key])
    ]


def _mark_old_code(entries: list[dict[str, Any]]) -> None:
    """A complete run is stale when its code is not the newest complete run's."""
    done = [entry for entry in entries if entry["state"] == "complete" and not entry["superseded"]]
    newest = max((entry["run"].record for entry in done), key=lambda record: record.ended or 0.0, default=None)
    if newest is None or not newest.provenance.get("code"):
        return
    for entry in done:
        if entry["run"].record.provenance.get("code") != newest.provenance["code"] and not entry["stale"]:
            entry["stale"] = "code changed"


def states(entries: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many of these runs are in which state; stale ones are counted as complete and apart."""
    counted: Counter[str] = Counter()
    for entry in entries:
        counted[entry["state"]] += 1
        counted["stale"] += entry["state"] == "complete" and entry["stale"] != ""
    return counted
