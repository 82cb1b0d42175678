"""The tables in a paper: compiled by pdflatex in one and in two columns."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.latex import escape

PAPER = r"""\documentclass[%s]{article}
\usepackage{booktabs,graphicx}
\begin{document}
Labels: %s
\input{table.tex}
\end{document}
"""
LABELS = "τ = 0.5, α ≥ β, Λ ≠ Α, naïve → ≈ 3 × 10 — “odd” 漢 🙂 50% & a_b #1 {x} ~^"


def test_any_unicode_is_written_in_ascii() -> None:
    assert escape("τ ≥ 1, Λ, Α") == r"$\tau$ $\geq$ 1, $\Lambda$, \textrm{A}"
    assert escape("naïve 漢") == "naive [U+6F22]"
    assert escape(LABELS).isascii()


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_tables_fit_a_paper(paper_main: Path, tmp_path: Path, columns: str) -> None:
    assert shutil.which("pdflatex"), "install texlive-latex-base and texlive-latex-recommended"
    shutil.copy(paper_main / "table.tex", tmp_path)
    (tmp_path / "paper.tex").write_text(PAPER % (columns, escape(LABELS)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").is_file()
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert not re.search(r"Overfull \\hbox \((\d{2,}|[2-9])\.", log)


def test_marks_and_lines_of_others_are_text() -> None:
    """A NUL once separated marks from text, so that a name with one reached the table as LaTeX."""
    assert "\\input" not in escape("\x00\\input{x}\x00")
    assert "\n" not in escape("a\nb")
