"""Tables as Markdown, LaTeX and CSV, and how a number is written.

The notes below a table say what its marks, intervals and stars mean; every format prints the same ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from reports.differences import Verdict
from reports.power import first_of, noise_of, sentence
from reports.spec import COLUMNS, Column, Spec
from reports.statistics import EQUIVALENT, LEAST_PAIRS, RATE, Difference, Summary
from reports.summary import Estimate, Standings
from reports.table import MARKS, Cell, Line, Table, published_sources

NOTHING = "–"
RECOVERED = "recovered, %"
STANDING = ("mean rank", "better, %", "gain")  # columns of the summary over settings


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """With a true minus sign; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    rounded = round(value, decimals) + 0.0  # no negative zero
    return f"{rounded:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def decimals_of(column: Column, spec: Spec) -> int:
    """How many decimals a column shows."""
    return spec.decimals if column.decimals is None else column.decimals


def spread_text(summary: Summary, decimals: int) -> str:
    """± sd; empty for one seed."""
    return "" if math.isnan(summary.sd) else f"± {number(summary.sd, decimals)}"


def interval_text(difference: Difference, decimals: int) -> str:
    """[low, high]; empty if there is none."""
    if math.isnan(difference.low):
        return ""
    return f"[{number(difference.low, decimals, signed=True)}, {number(difference.high, decimals, signed=True)}]"


def test_text(difference: Difference, verdict: Verdict | None) -> str:
    """What a difference was tested by: p = 0.012 over 3 seeds and images; adjusted 0.048."""
    if math.isnan(difference.p):
        return ""
    over = f"{difference.n} seeds" + (" and images" if difference.over_images else "")
    adjusted = "" if verdict is None or math.isnan(verdict.p) else f"; adjusted over rows {verdict.p:.2g}"
    return f"p = {difference.p:.2g} over {over}{adjusted}"


def signs(cell: Cell) -> str:
    """What the tests say of the difference to the first baseline."""
    return ("★" if cell.star else "") + ("≈" if cell.equal else "")


def counted_text(line: Line) -> str:
    """2 of 3."""
    return f"{line.complete} of {line.expected}" if line.expected else "no runs"


def marks_text(line: Line) -> str:
    """1 failed."""
    if not line.expected:
        return ""
    words = [f"{count} {mark}" for mark, count in line.marks.items() if MARKS[mark].counts]
    if line.expected == 1:
        words += [mark for mark in line.marks if not MARKS[mark].counts]
    return ", ".join(words)


def _together(separator: str, *parts: str) -> str:
    """What there is of the parts."""
    return separator.join(part for part in parts if part)


def notes(spec: Spec, tables: list[Table]) -> list[str]:
    """What a reader must know to read the numbers, as sentences."""
    lines = [line for table in tables for line in table.lines]
    written = ["AP in percent: mean ± sample standard deviation over seeds."]
    if spec.baselines:
        first = spec.label_of(spec.baselines[0])
        written.append(_interval_note(spec, lines))
        written += _verdict_notes(spec, first, lines)
        noise = spec.primary and noise_of(spec.primary, _first_differences(spec, lines))
        if noise:
            written.append(sentence(noise))
    if any(line.recovery for line in lines):
        written.append(_recovery_note(spec, lines))
    marks = [mark for mark in MARKS if any(mark in line.marks for line in lines)]
    if marks:
        meanings = ", ".join(f"{MARKS[mark].letter} {MARKS[mark].meaning}" for mark in marks)
        written.append(f"Marks: {meanings}.")
    if any(line.source for line in lines):
        sources = "; ".join(published_sources(tables))
        written.append(f"Published figures: {sources}. Their difference is ours minus theirs.")
        written += variant_notes(spec, lines)
    for column in spec.columns:
        if column.about:
            written.append(f"{column.plain}: {column.about}.")
    return written


def _first_differences(spec: Spec, lines: Iterable[Line]) -> list[Difference]:
    """To the first baseline, in the primary column."""
    baseline, primary = first_of(spec)
    cells = [cell for line in lines for cell in line.cells if cell.column.key == primary]
    return [cell.differences[baseline] for cell in cells if baseline in cell.differences]


def variant_notes(spec: Spec, lines: Iterable[Line]) -> list[str]:
    """What the papers' figures are of, where their sources have several variants; and what other sources say."""
    named = {f"{spec.label_in_group(line.row.label, line.row.group)}: {line.variant}" for line in lines if line.variant}
    other = []
    for line in lines:
        for row in line.elsewhere:
            key = next(each.key for each in spec.columns if each.metric and not math.isnan(row.get(each.key, math.nan)))
            variant = f", {row['variant']}" if isinstance(row["variant"], str) else ""
            label = spec.label_in_group(line.row.label, line.row.group)
            value = f"{COLUMNS[key].plain} {number(row[key], spec.decimals)}"
            other.append(f"Another source has {label} at {value} ({row['source']}{variant}).")
    return [*([f"Published variants: {'; '.join(sorted(named))}."] if named else []), *other]


def _interval_note(spec: Spec, lines: Iterable[Line]) -> str:
    found = [each for line in lines for cell in line.cells for each in cell.differences.values()]
    of_seeds = "other seeds alone, since matches.parquet is missing"
    kinds = {each.over_images for each in found}
    where = "other seeds and other validation images" if kinds == {True} else of_seeds
    if len(kinds) > 1:
        where = "other seeds and other validation images (other seeds alone where matches.parquet is missing)"
    note = (
        f"Differences are paired by seed; brackets: the {spec.level:.0%} interval of what they would be with {where}."
    )
    if any(each.n == 2 for each in found):
        note += " Dashed: from two seeds, which estimate the spread poorly."
    return note


def _recovery_note(spec: Spec, lines: Iterable[Line]) -> str:
    assert spec.gain is not None
    assert spec.primary is not None
    least, all_of = spec.label_of(spec.gain.over), spec.label_of(spec.gain.of)
    note = f"recovered: 0 is {least}, 100 is {all_of}; in brackets Fieller's {spec.level:.0%} interval."
    without = [line.recovery for line in lines if line.recovery and math.isnan(line.recovery.low)]
    if any(each.n == 1 for each in without):
        note += " No interval with a single seed that all three rows have."
    if any(each.n > 1 for each in without):
        note += f" No interval where the noise in these runs is too large for {all_of}'s own gain."
    return note


def _verdict_notes(spec: Spec, first: str, lines: Sequence[Line]) -> list[str]:
    if spec.primary is None:
        return []
    cells = [cell for line in lines for cell in line.cells if cell.verdict is not None]
    star = (
        f"★ marks a difference from {first} in {spec.primary.plain}, the column declared for this, so large that noise "
        f"alone would show it in at most one report of twenty (p ≤ {RATE:g} over seeds, and images where known, "
        f"adjusted over all rows by Holm's method; needs {LEAST_PAIRS} seeds)"
        + ("." if any(cell.star for cell in cells) else "; none does.")
    )
    equal = f"≈ marks a difference within ±{EQUIVALENT:g} (two one-sided tests, adjusted likewise)."
    return [star, *([equal] if any(cell.equal for cell in cells) else [])]


def standing_notes(standings: Standings, baseline: str) -> list[str]:
    """How to read the summary."""
    alike = "" if math.isnan(standings.p) else f" All rows alike: p = {standings.p:.2g} (Friedman)."
    return [
        f"In {standings.column.plain}, over {standings.settings} settings. Mean ranks (1 is best) differ if "
        f"they are more than {standings.critical:.1f} apart (Nemenyi, 5%).{alike}",
        f"better: the probability that a run beats one of {baseline} in the same setting. gain: the mean of the middle "
        "half of the paired differences from it. Intervals in brackets come from a bootstrap over the seeds of each "
        "setting, widened for few seeds.",
    ]


def estimate_text(estimate: Estimate | None, scale: float, decimals: int, signed: bool = False) -> tuple[str, str]:
    """The value, and its interval where there is one."""
    if estimate is None:
        return number(None, decimals), ""
    low, high = (number(scale * bound, decimals, signed) for bound in (estimate.low, estimate.high))
    interval = "" if math.isnan(estimate.low) else f"[{low}, {high}]"
    return number(scale * estimate.value, decimals, signed), interval


# ------------------------------------------------------------------------------------------------------ the formats


@dataclass(frozen=True)
class Grid:
    """A table as text: what Markdown and LaTeX have in common."""

    caption: str
    heading: list[str]
    groups: list[tuple[str, list[list[str]]]]


def grids(spec: Spec, tables: list[Table], head: Callable[[Column], str], mark: Callable[[str], str]) -> list[Grid]:
    """The figures; then differences to each baseline; then the published figures, where there are any."""

    def grid(caption: str, columns: Iterable[Column], cell: Callable[[Line, Cell], str], runs: bool = False) -> Grid:
        shown = list(columns)
        groups = []
        for table in tables:
            rows = []
            for line in table.lines:
                cells = [cell(line, each) for each in line.cells if each.column in shown]
                stand = [_together(": ", counted_text(line), marks_text(line))] if runs else []
                rows.append([line.row.label, *cells, *stand])
            groups.append((table.heading, rows))
        return Grid(caption, [spec.heading, *(head(column) for column in shown), *(["runs"] if runs else [])], groups)

    def value(line: Line, cell: Cell) -> str:
        decimals = decimals_of(cell.column, spec)
        text = _together(" ", number(cell.summary.mean, decimals), spread_text(cell.summary, decimals))
        return text + (mark("".join(MARKS[each].letter for each in cell.marks)) if cell.marks else "")

    metrics = [column for column in spec.columns if column.metric]
    result = [grid(spec.title, spec.columns, value, runs=True)]
    for place, key in enumerate(spec.baselines):

        def difference(line: Line, cell: Cell, key: str = key, star: bool = place == 0) -> str:
            found = cell.differences.get(key)
            if found is None:
                return NOTHING
            mean = number(found.mean, spec.decimals, signed=True)
            return _together(" ", mean, interval_text(found, spec.decimals)) + (signs(cell) if star else "")

        result.append(grid(f"Difference to {spec.label_of(key)}", metrics, difference))
    if spec.gain is not None:
        result.append(_recovery_grid(spec, tables))
    if any(line.source or line.unpublished for table in tables for line in table.lines):
        result.append(grid("Published (ours − published)", metrics, lambda line, cell: _published(line, cell, spec)))
    return result


def recovery_title(spec: Spec) -> str:
    """What the shares are of."""
    assert spec.gain is not None
    assert spec.primary is not None
    return f"Share of {spec.label_of(spec.gain.of)}'s gain over {spec.label_of(spec.gain.over)} in {spec.primary.plain}"


def recovery_text(line: Line) -> tuple[str, str]:
    """The share in percent, and its interval; a dash where nothing is known."""
    known = line.recovery
    if known is None:
        return NOTHING, ""
    return estimate_text(Estimate(known.share, known.low, known.high), 100, 0)


def _recovery_grid(spec: Spec, tables: list[Table]) -> Grid:
    groups = []
    for table in tables:
        lines = [line for line in table.lines if line.recovery is not None]
        if not lines and len(tables) > 1:  # a setting without an oracle of its own
            continue
        groups.append((table.heading, [[line.row.label, _together(" ", *recovery_text(line))] for line in lines]))
    return Grid(recovery_title(spec), [spec.heading, RECOVERED], groups)


def _published(line: Line, cell: Cell, spec: Spec) -> str:
    if cell.published is None:
        return "no source" if line.unpublished else NOTHING
    ours = cell.published_difference
    beside = "" if ours is None else f" ({number(ours, spec.decimals, signed=True)})"
    return number(cell.published, spec.decimals) + beside


def standings_grid(spec: Spec, standings: Standings) -> Grid:
    """The rows over all settings, by their mean rank."""
    rows = []
    for row in sorted(standings.rows, key=lambda row: row.rank):
        better = _together(" ", *estimate_text(row.better, 100, 0))
        gain = _together(" ", *estimate_text(row.gain, 1, spec.decimals, signed=True))
        rows.append([row.label, number(row.rank, 1), better, gain])
    return Grid("Over all settings", [spec.heading, *STANDING], [("", rows)])


def markdown(
    spec: Spec, tables: list[Table], figures: Iterable[tuple[str, str, str]], standings: Standings | None
) -> str:
    """figures: file name, title and caption of each."""
    parts = [f"# {escape_markdown(spec.title)}", *([escape_markdown(spec.description)] if spec.description else [])]

    def mark(text: str) -> str:
        return f" <sup>{text}</sup>"

    overall = [standings_grid(spec, standings)] if standings else []
    for grid in [*grids(spec, tables, html_heading, mark), *overall]:
        parts.append(f"## {escape_markdown(grid.caption)}")
        for heading, rows in grid.groups:
            if heading:
                parts.append(f"### {escape_markdown(heading)}")
            rule = [":--", *("--:" for _ in grid.heading[1:])]
            labelled = [[escape_markdown(label), *cells] for label, *cells in rows]
            parts.append("\n".join(_markdown_row(row) for row in [grid.heading, rule, *labelled]))
    overall_notes = standing_notes(standings, spec.label_of(spec.baselines[0])) if standings else []
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in [*notes(spec, tables), *overall_notes]))
    parts += [f"![{escape_markdown(title)}]({file})\n\n{escape_markdown(caption)}" for file, title, caption in figures]
    return "\n\n".join(parts) + "\n"


def html_heading(column: Column) -> str:
    sub = f"<sub>{column.subscript}</sub>" if column.subscript else ""
    sup = f"<sup>{column.superscript}</sup>" if column.superscript else ""
    return f"{column.base}{sub}{sup}{column.suffix}"


def escape_markdown(text: str) -> str:
    """A label escaped for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text).replace("\n", " ")


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell).replace("\n", " ") for cell in cells) + " |"
