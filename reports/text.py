"""Tables as Markdown, LaTeX and CSV, and how a number is written.

The notes below a table say what its marks, intervals and stars mean; every format prints the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reports.spec import Column, Spec
from reports.statistics import LEAST_PAIRS, RATE, Difference, Summary
from reports.table import MARKS, Cell, Line, Table, published_sources

NOTHING = "–"


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """With a true minus sign; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    rounded = round(value, decimals) + 0.0  # no negative zero
    return f"{rounded:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def decimals_of(column: Column, spec: Spec) -> int:
    return spec.decimals if column.decimals is None else column.decimals


def spread_text(summary: Summary, decimals: int) -> str:
    """± sd; empty for one seed."""
    return "" if math.isnan(summary.sd) else f"± {number(summary.sd, decimals)}"


def interval_text(difference: Difference, decimals: int) -> str:
    """[low, high]; empty where there is none."""
    if math.isnan(difference.low):
        return ""
    return f"[{number(difference.low, decimals, signed=True)}, {number(difference.high, decimals, signed=True)}]"


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
        written.append(
            f"Differences are paired by seed; in brackets the {spec.intervals.level:.0%} {_interval_words(spec)}."
        )
        stars = any(cell.star for line in lines for cell in line.cells)
        written.append(
            f"★ marks a difference to {first} that stands in a paired two-sided t-test over seeds at a false discovery "
            f"rate of {RATE:.0%} (Benjamini–Hochberg over the rows of a column; {LEAST_PAIRS} seeds or more)"
            + ("." if stars else "; none does.")
        )
    marks = [mark for mark in MARKS if any(mark in line.marks for line in lines)]
    if marks:
        meanings = ", ".join(f"{MARKS[mark].letter} {MARKS[mark].meaning}" for mark in marks)
        written.append(f"Marks: {meanings}.")
    if any(line.source for line in lines):
        sources = "; ".join(published_sources(tables))
        written.append(f"Published figures: {sources}. Their difference is ours minus theirs.")
    for column in spec.columns:
        if column.about:
            written.append(f"{column.plain}: {column.about}.")
    return written


def _interval_words(spec: Spec) -> str:
    if spec.intervals.over == "images":
        return (
            f"percentile bootstrap interval over the validation images ({spec.intervals.resamples} resamples, the same "
            "images for both sides), which says nothing of the spread between seeds; a difference without one lacks "
            "matches.parquet"
        )
    return (
        f"percentile bootstrap interval over seeds ({spec.intervals.resamples} resamples), which with so few seeds "
        "is narrower than the truth"
    )


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
            return _together(" ", mean, interval_text(found, spec.decimals)) + ("★" if star and cell.star else "")

        result.append(grid(f"Difference to {spec.label_of(key)}", metrics, difference))
    if any(line.source or line.unpublished for table in tables for line in table.lines):
        result.append(grid("Published (ours − published)", metrics, lambda line, cell: _published(line, cell, spec)))
    return result


def _published(line: Line, cell: Cell, spec: Spec) -> str:
    if cell.published is None:
        return "no source" if line.unpublished else NOTHING
    ours = cell.published_difference
    beside = "" if ours is None else f" ({number(ours, spec.decimals, signed=True)})"
    return number(cell.published, spec.decimals) + beside


def markdown(spec: Spec, tables: list[Table], figures: Iterable[tuple[str, str, str]]) -> str:
    """figures: file name, title and caption of each."""
    parts = [f"# {spec.title}", spec.description] if spec.description else [f"# {spec.title}"]

    def mark(text: str) -> str:
        return f" <sup>{text}</sup>"

    for grid in grids(spec, tables, lambda column: _html_heading(column), mark):
        parts.append(f"## {grid.caption}")
        for heading, rows in grid.groups:
            if heading:
                parts.append(f"### {heading}")
            rule = [":--", *("--:" for _ in grid.heading[1:])]
            parts.append("\n".join(_markdown_row(row) for row in [grid.heading, rule, *rows]))
    parts.append("\n".join(f"- {note}" for note in notes(spec, tables)))
    parts += [f"![{title}]({file})\n\n{caption}" for file, title, caption in figures]
    return "\n\n".join(parts) + "\n"


def _html_heading(column: Column) -> str:
    sub = f"<sub>{column.subscript}</sub>" if column.subscript else ""
    sup = f"<sup>{column.superscript}</sup>" if column.superscript else ""
    return f"{column.base}{sub}{sup}{column.suffix}"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "★": r"$^{\star}$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def escape(text: str) -> str:
    """Text for LaTeX: its special characters and ours written out."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(spec: Spec, tables: list[Table]) -> str:
    r"""Tables for `\input`; they need the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}. Written by `harness report`; a change here is lost."]
    marker = "\x00"  # marks pass through the escaping as they are

    for index, grid in enumerate(grids(spec, tables, _latex_heading, lambda text: f"{marker}{text}{marker}")):
        width = len(grid.heading)
        body = []
        for heading, rows in grid.groups:
            if heading:
                body.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(heading)}}}}} \\")
            body += [" & ".join(_latex_cell(cell, marker) for cell in row) + r" \\" for row in rows]
            body.append(r"\midrule")
        caption = escape(grid.caption) + "." + ("" if index else " " + escape(" ".join(notes(spec, tables))))
        lines = [
            r"\begin{table}[t]",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"\toprule",
            " & ".join([escape(grid.heading[0]), *grid.heading[1:]]) + r" \\",
            r"\midrule",
            *body[:-1],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{spec.name.replace('_', '-')}-{index}}}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_heading(column: Column) -> str:
    if not column.superscript:
        return escape(column.base + column.suffix)
    below = rf"_\mathrm{{{column.subscript}}}" if column.subscript else ""
    return rf"$\mathrm{{{column.base}}}{below}^\mathrm{{{column.superscript}}}$"


def _latex_cell(cell: str, marker: str) -> str:
    text, *mark = cell.split(marker)
    return escape(text) + (rf"$^{{\mathrm{{{mark[0]}}}}}$" if mark else "")
