"""Tables as LaTeX, for any engine and for one and two columns."""

from __future__ import annotations

import re
import unicodedata

from reports.spec import Column, Spec
from reports.table import Table
from reports.text import grids, notes

GREEK_CAPITALS = ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega")
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
    "≈": r"$^{\approx}$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≠": r"$\neq$",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "°": r"$^{\circ}$",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "\u00a0": "~",
    "\u202f": r"\,",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def escape(text: str) -> str:
    """Text for LaTeX, which any engine reads: special characters, Greek and signs written out."""
    return "".join(LATEX.get(character) or _letter(character) for character in text)


def _letter(character: str) -> str:
    """A Greek letter by its command; others as the ASCII that they are made of, or by their number."""
    if character.isascii():
        return character if character.isprintable() else " "
    words = unicodedata.name(character, "").split()
    if words[:1] == ["GREEK"] and words[2:3] == ["LETTER"] and len(words) == 4:
        name = words[3].replace("LAMDA", "LAMBDA").lower()
        if words[1] == "SMALL":
            return "o" if name == "omicron" else rf"$\{name}$"
        return rf"$\{name.capitalize()}$" if name in GREEK_CAPITALS else rf"\textrm{{{name[0].upper()}}}"
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(LATEX.get(each, each) for each in base) or f"[U+{ord(character):04X}]"


def latex(spec: Spec, tables: list[Table]) -> str:
    r"""Tables for `\input`, as wide as the text in one and in two columns; they need booktabs and graphicx."""
    parts = ["% Needs \\usepackage{booktabs,graphicx}. Written by `harness report`; a change here is lost."]
    marker = "\x00"  # marks pass through the escaping as they are

    for index, grid in enumerate(grids(spec, tables, _latex_heading, lambda text: f"{marker}{text}{marker}")):
        width = len(grid.heading)
        body = []
        for heading, rows in grid.groups:
            if heading:
                body.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(heading)}}}}} \\")
            cells = [[escape(label), *(_latex_cell(cell, marker) for cell in rest)] for label, *rest in rows]
            body += [" & ".join(row) + r" \\" for row in cells]
            body.append(r"\midrule")
        caption = escape(grid.caption) + "." + ("" if index else " " + escape(" ".join(notes(spec, tables))))
        lines = [
            r"\begin{table*}[t]",
            r"\centering\small",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"
            rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"\toprule",
            " & ".join([escape(grid.heading[0]), *grid.heading[1:]]) + r" \\",
            r"\midrule",
            *body[:-1],
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', spec.name)}-{index}}}",
            r"\end{table*}",
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
