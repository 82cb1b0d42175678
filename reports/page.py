"""The page: one self-contained HTML file, from the template and what the tables, figures and records hold."""

from __future__ import annotations

import datetime
import html
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.reading import Damaged, is_name, read_bytes
from reports.collect import MOST_RUNS, Collection, Run, TableRow, states
from reports.decisions import AGREEMENT
from reports.spec import COLUMNS, Column, Spec
from reports.statistics import Summary
from reports.style import Picture
from reports.summary import Standings
from reports.table import MARKS, Cell, Line, Table
from reports.text import (
    RECOVERED,
    STANDING,
    counted_text,
    decimals_of,
    estimate_text,
    html_heading,
    interval_text,
    marks_text,
    notes,
    number,
    recovery_text,
    recovery_title,
    signs,
    spread_text,
    standing_notes,
    test_text,
)

if TYPE_CHECKING:
    import jinja2

FILES = ("config.yaml", "log.txt", "metrics.jsonl", "record.json")  # of a run that the page leads to
GENERATOR = "harness report"  # what a page says it was written by
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Shown:
    """A cell of a page: its text, what it is sorted by ("" sorts last), and the text below and beside it."""

    text: str
    sort: str = ""
    spread: str = ""
    difference: str = ""
    interval: str = ""
    dashed: bool = False
    signs: str = ""
    test: str = ""
    published: str = ""
    marks: tuple[str, ...] = ()
    link: str = ""
    about: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Heading:
    """A column's heading, its parts set apart for sub- and superscript."""

    base: str
    subscript: str = ""
    superscript: str = ""
    unit: str = ""
    about: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table of the page."""

    key: str
    caption: str
    headings: list[Heading]
    rows: list[list[Shown]]
    controls: tuple[int, ...] = ()  # rows that others are compared with
    title: str = ""  # above it on the page
    note: str = ""  # below it


def render(
    spec: Spec,
    collection: Collection,
    tables: list[Table],
    pictures: list[Picture],
    left_out: list[str],
    agreement: Mapping[TableRow, Mapping[str, Summary]],
    standings: Standings | None,
    parts: Mapping[str, Any],
    folder: Path,
) -> str:
    """The page's HTML; `folder` is where it will lie, since links to records are relative to it. parts: what the
    templates `faults`, `pairs`, `judged` and `cards` show, by these names; empty if there is nothing."""
    return _template("report.html").render(
        spec=spec,
        sheets=[_results(spec, table) for table in tables],
        further=[
            *(_differences(spec, tables, key) for key in spec.baselines[1:]),
            *([_recoveries(spec, tables)] if spec.gain else []),
        ],
        standings=_standings(spec, standings) if standings else None,
        standing_notes=standing_notes(standings, spec.label_of(spec.baselines[0])) if standings else [],
        notes=notes(spec, tables),
        pictures=pictures,
        left_out=left_out,
        agreement=_agreement(spec, agreement) if agreement else None,
        agreement_notes=[f"{column.base}: {column.about}." for column in AGREEMENT],
        runs=[_row_runs(spec, collection, row, folder) for row in collection.rows],
        facts=_facts(collection),
        damaged=sorted(collection.damaged),
        **parts,
        marks=MARKS,
        files=["table.csv", "table.md", "table.tex"],
        generator=GENERATOR,
    )


def _template(name: str) -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"prose": prose, "heading": heading_html}
    return environment.get_template(name)


def prose(text: str) -> str:
    """A sentence as HTML: columns' names set as in tables, and what is between backticks as code."""
    written = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    for column in COLUMNS.values():
        if column.superscript:
            written = written.replace(column.plain, html_heading(column))
    return written


def heading_html(heading: Heading) -> str:
    """A heading with its sub- and superscript one above the other."""
    base, above, below, unit = map(html.escape, (heading.base, heading.superscript, heading.subscript, heading.unit))
    scripts = f"<sup>{above}</sup>" if above else ""
    if below:
        scripts = f'<span class="scripts"><sup>{above}</sup><sub>{below}</sub></span>'
    return base + scripts + (f' <span class="unit">{unit}</span>' if unit else "")


def heading_of(column: Column) -> Heading:
    """A column's heading on the page."""
    return Heading(column.base, column.subscript, column.superscript, column.unit, column.about)


def sortable(value: float | None) -> str:
    """A figure unrounded, as the CSV writes it; empty if there is none."""
    return "" if value is None or math.isnan(value) else repr(float(value))


def _results(spec: Spec, table: Table) -> Sheet:
    headings = [Heading(""), *(heading_of(column) for column in spec.columns), Heading("runs")]
    rows = [
        [_label(line), *(_value(spec, line, cell) for cell in line.cells), _runs_cell(line)] for line in table.lines
    ]
    controls = tuple(index for index, line in enumerate(table.lines) if line.row.row.key in spec.baselines[:1])
    return Sheet(f"results-{table.group or 'all'}", table.heading, headings, rows, controls)


def _label(line: Line) -> Shown:
    return Shown(line.row.label, line.row.label, link=f"#runs-{line.row.key}")


def _value(spec: Spec, line: Line, cell: Cell) -> Shown:
    decimals = decimals_of(cell.column, spec)
    published = ""
    if cell.column.metric and (line.source or line.unpublished):
        published = "no published figure" if cell.published is None else f"published {number(cell.published, decimals)}"
        if cell.published_difference is not None:
            published += f" ({number(cell.published_difference, decimals, signed=True)})"
    first = cell.differences.get(spec.baselines[0]) if spec.baselines else None
    return Shown(
        text=number(cell.summary.mean, decimals) if cell.summary.n else _reason(line),
        sort=sortable(cell.summary.mean),
        spread=spread_text(cell.summary, decimals),
        difference=number(first.mean, decimals, signed=True) if first else "",
        interval=interval_text(first, decimals) if first else "",
        dashed=first is not None and first.n == 2,
        signs=signs(cell),
        test=test_text(first, cell.verdict) if first else "",
        published=published,
        marks=cell.marks if cell.summary.n else (),
        link=f"#runs-{line.row.key}",
    )


def _reason(line: Line) -> str:
    """Why a cell has no figure."""
    if line.complete:
        return "–"
    return next((mark for mark in ("failed", "unfinished", "missing") if mark in line.marks), "–")


def _runs_cell(line: Line) -> Shown:
    link = f"#runs-{line.row.key}"
    return Shown(counted_text(line), sortable(line.complete), about=marks_text(line), link=link, quiet=True)


def _differences(spec: Spec, tables: list[Table], key: str) -> Sheet:
    metrics = [column for column in spec.columns if column.metric]
    rows = []
    for line in (line for table in tables for line in table.lines):
        cells = [cell for cell in line.cells if cell.column.metric]
        if not any(key in cell.differences for cell in cells):
            continue
        label = spec.label_in_group(line.row.label, line.row.group)
        shown = [Shown(label, label, link=f"#runs-{line.row.key}")]
        for cell in cells:
            difference = cell.differences.get(key)
            mean = difference.mean if difference else None
            interval = interval_text(difference, spec.decimals) if difference else ""
            text, test = number(mean, spec.decimals, signed=True), test_text(difference, None) if difference else ""
            dashed = difference is not None and difference.n == 2
            shown.append(Shown(text, sortable(mean), interval=interval, dashed=dashed, test=test))
        rows.append(shown)
    headings = [Heading(""), *(heading_of(column) for column in metrics)]
    return Sheet(f"minus-{key}", "", headings, rows, title=f"Difference to {spec.label_of(key)}")


def _recoveries(spec: Spec, tables: list[Table]) -> Sheet:
    rows = []
    for line in (line for table in tables for line in table.lines if line.recovery is not None):
        label = spec.label_in_group(line.row.label, line.row.group)
        share, interval = recovery_text(line)
        value = Shown(share, sortable(line.recovery.share if line.recovery else None), interval=interval)
        rows.append([Shown(label, label, link=f"#runs-{line.row.key}"), value])
    return Sheet("recovered", "", [Heading(""), Heading(RECOVERED)], rows, title=recovery_title(spec))


def _standings(spec: Spec, standings: Standings) -> Sheet:
    rows = []
    for row in sorted(standings.rows, key=lambda row: row.rank):
        shown = [Shown(row.label, row.label), Shown(number(row.rank, 1), sortable(row.rank))]
        for estimate, scale, decimals, signed in ((row.better, 100, 0, False), (row.gain, 1, spec.decimals, True)):
            value, interval = estimate_text(estimate, scale, decimals, signed)
            shown.append(Shown(value, sortable(estimate.value if estimate else None), interval=interval))
        rows.append(shown)
    return Sheet("standings", "", [Heading(""), *map(Heading, STANDING)], rows)


def _agreement(spec: Spec, agreement: Mapping[TableRow, Mapping[str, Summary]]) -> Sheet:
    rows = []
    for row, figures in agreement.items():
        label = spec.label_in_group(row.label, row.group)
        shown = [Shown(label, label, link=f"#runs-{row.key}")]
        for column in AGREEMENT:
            scale, decimals, found = column.scale, decimals_of(column, spec), figures[column.key]
            summary = Summary(found.mean * scale, found.sd * scale, found.n)
            value = number(summary.mean, decimals) + (column.unit if summary.n else "")
            shown.append(Shown(value, sortable(summary.mean), spread=spread_text(summary, decimals)))
        rows.append(shown)
    headings = [Heading(""), *(Heading(column.base, about=column.about) for column in AGREEMENT)]
    return Sheet("agreement", "", headings, rows)


# ------------------------------------------------------------------------------------------------------ the runs


@dataclass(frozen=True)
class ShownRun:
    """A run in the page's list of runs, as text."""

    seed: str
    run_id: str
    link: str
    state: str
    why: str
    figures: list[str]
    files: list[tuple[str, str]]
    command: str
    made: list[tuple[str, str]]


@dataclass(frozen=True)
class RowRuns:
    """A row in the page's list of runs, with its runs."""

    key: str
    label: str
    about: str
    counted: str
    headings: list[Heading]
    runs: list[ShownRun]


def _row_runs(spec: Spec, collection: Collection, row: TableRow, folder: Path) -> RowRuns:
    entries = collection.entries[row.key]
    metrics = [column for column in spec.columns if column.metric]
    base = os.path.relpath(collection.folder, folder)
    in_full = len(collection.frame) <= MOST_RUNS
    shown = []
    for entry in entries:
        run: Run = entry["run"]
        figures = [number(entry.get(column.key), max(2, spec.decimals)) for column in metrics]
        link = f"{base}/{run.run_id}/record.json" if run.record else ""
        made = _made(run) if in_full else []
        there = [name for name in FILES if in_full and run.record and (collection.folder / run.run_id / name).is_file()]
        files = [(name, f"{base}/{run.run_id}/{name}") for name in there]
        command = shlex.join(["harness", "run", *run.overrides]) if run.overrides and in_full else ""
        shown.append(ShownRun(str(run.seed), run.run_id or "–", link, *_state(entry), figures, files, command, made))
    label = spec.label_in_group(row.label, row.group)
    counted = _counted(states(entry for entry in entries if not entry["superseded"]))
    return RowRuns(row.key, label, row.row.about, counted, [heading_of(column) for column in metrics], shown)


def _state(entry: Mapping[Any, Any]) -> tuple[str, str]:
    run: Run = entry["run"]
    if run.superseded:
        return "not counted", "another run is used for this row and seed"
    if run.state == "complete" and entry["stale"]:
        return "stale", entry["stale"]
    failure = (run.record.failure or {}) if run.record else {}
    return run.state, ": ".join(failure[key] for key in ("kind", "message") if failure.get(key))


def _made(run: Run) -> list[tuple[str, str]]:
    """Provenance, in a reader's words and order."""
    if run.record is None:
        return []
    record, provenance = run.record, run.record.provenance
    hardware = provenance.get("hardware") or {}
    commit = str(provenance.get("commit") or "")[:10]
    packages = provenance.get("packages") or {}
    facts = {
        "commit": commit + (" with uncommitted changes" if commit and provenance.get("dirty_diff") else ""),
        "code": str(provenance.get("code") or "")[:10],
        "ended": _date(record.ended),
        "training": _duration(record.cost.get("train_seconds")),
        "iterations": f"{record.cost['iterations']:.0f}" if record.cost.get("iterations") else "",
        "hardware": ", ".join(str(hardware[key]) for key in ("gpu", "cpu", "host") if hardware.get(key)),
        "job": str(provenance.get("job") or ""),
        "restarts": str(provenance.get("restarts") or ""),
        "parents": ", ".join(provenance.get("parents") or []),
        "data": ", ".join(f"{k} {str(v)[:10]}" for k, v in (provenance.get("fingerprints") or {}).items()),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }
    return [(name, text) for name, text in facts.items() if text]


def _counted(counted: Counter[str]) -> str:
    fresh = counted["complete"] - counted["stale"]
    words = [f"{fresh} complete"] if fresh else []
    words += [f"{count} {state}" for state, count in counted.items() if count and state != "complete"]
    return ", ".join(words) or "no runs"


def _facts(collection: Collection) -> list[tuple[str, str]]:
    """What the whole report was made from, for the head of the page."""
    used = [entry for row in collection.rows for entry in collection.runs_of(row.key)]
    runs: list[Run] = [entry["run"] for entry in used]
    done = [run.record for run in runs if run.state == "complete" and run.record]
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    seconds = [record.cost["wall_seconds"] for record in done if record.cost.get("wall_seconds")]
    facts = [("runs", _counted(states(used))), ("seeds", _seeds(seeds))]
    facts.append(("sweep", ", ".join(collection.sweeps)))
    facts.append(("time of all runs", _duration(sum(seconds)) if seconds else ""))
    facts.append(("newest", _date(max((record.ended or 0.0 for record in done), default=0.0))))
    facts.append(
        (
            "commit",
            ", ".join(sorted({str(r.provenance["commit"])[:10] for r in done if r.provenance.get("commit")})[:3]),
        )
    )
    return [(name, text) for name, text in facts if text]


def _seeds(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{len(seeds)} of them"


def _date(seconds: float | None) -> str:
    if not seconds:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float | None) -> str:
    if not seconds:
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.1f} min" if minutes >= 1.5 else f"{seconds:.0f} s"


@dataclass(frozen=True)
class ShownReport:
    """A link of the front page: a report's folder, its title, and when it was written."""

    name: str
    title: str
    written: str


def render_front_page(folder: Path) -> str:
    """A page that leads to every report below `folder`, the newest first."""
    pages = sorted(folder.glob("*/index.html"), key=lambda page: -page.stat().st_mtime)
    found = []
    for page in pages:
        if not is_name(page.parent.name):
            continue
        try:
            head = (read_bytes(page) or b"")[:8000].decode(errors="replace")
        except (Damaged, OSError):
            continue  # somebody else's, as any page is that we did not write
        title = re.search(r"<title>(.*?)</title>", head, re.DOTALL)
        if title and f'content="{GENERATOR}"' in head:
            found.append(ShownReport(page.parent.name, html.unescape(title[1]).strip(), _date(page.stat().st_mtime)))
    return _template("front.html").render(reports=found, generator="harness report, front page")


def render_comparison(links: list[tuple[str, str]], sheets: list[Sheet], pictures: list[Picture]) -> str:
    """The page of `harness compare`; links: run_id and relative path of each run's record."""
    return _template("compare.html").render(
        links=links, sheets=sheets, pictures=pictures, marks=MARKS, generator=GENERATOR
    )
