"""`harness report`: a spec and a folder of runs -> one folder with the page, the tables and the figures."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.files import as_cell, write_atomically
from harness.record.names import nearest
from reports.collect import Collection, collect
from reports.decisions import agreement_of
from reports.published import read_published
from reports.spec import Spec, read_spec
from reports.summary import find_standings
from reports.table import Table, build_tables, to_frame

if TYPE_CHECKING:
    from rich.console import RenderableType

REPORTS = Path("report")  # where reports go, below a front page that leads to them all
FORMATS = ("html", "md", "tex", "csv")


def report_command(
    name: str,
    runs: Path,
    formats: list[str] | None = None,
    out: Path | None = None,
    published: Path | None = None,
    show: Callable[[RenderableType], None] | None = None,
) -> Path:
    """Writes a report and returns its folder, `report/<name>` unless `out` says otherwise; `report/index.html` leads to
    all.

    name: a report that comes with the package, or the path of a spec. runs: the folder of the runs. formats: some of
    `FORMATS`, all if None. published: a CSV of further published results. show: prints the tables in a terminal.
    Raises ValueError with one sentence for anything that the user can fix.
    """
    formats = list(formats or FORMATS)
    for each in formats:
        if each not in FORMATS:
            raise ValueError(f"no such report format: '{each}'; {nearest(each, FORMATS)}")
    spec = read_spec(name)
    if not runs.is_dir():
        raise ValueError(
            f"the folder of runs '{runs}' does not exist; run a sweep first, or name the folder with --runs"
        )
    with _no_garbage_collection():
        folder = _report(spec, runs, formats, out or REPORTS / spec.name, published, show)
    if out is None and "html" in formats:
        from reports.page import render_front_page

        _write(REPORTS / "index.html", render_front_page(REPORTS))
    return folder


def _report(
    spec: Spec,
    runs: Path,
    formats: list[str],
    folder: Path,
    published: Path | None,
    show: Callable[[RenderableType], None] | None,
) -> Path:
    collection = collect(spec, runs)
    tables = build_tables(spec, collection, read_published(published))
    if show is not None:
        from reports.terminal import shown_tables

        for each in shown_tables(spec, tables):
            show(each)
    folder.mkdir(parents=True, exist_ok=True)

    if "csv" in formats:
        with write_atomically(folder / "table.csv") as path:
            to_frame(spec, tables).map(as_cell).to_csv(path, index=False)
    if "tex" in formats:
        from reports.latex import latex

        _write(folder / "table.tex", latex(spec, tables))
    if "md" in formats or "html" in formats:
        _write_pages(spec, collection, tables, folder, formats)
    return folder


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pauses garbage collection, which walks through hundreds of thousands of live dictionaries each time: a fifth of
    the time for 10 000 records."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _write_pages(spec: Spec, collection: Collection, tables: list[Table], folder: Path, formats: list[str]) -> None:
    """Figures, and the formats that show them."""
    from reports.figure import draw_figures
    from reports.page_faults import fault_part
    from reports.text import markdown

    standings = find_standings(spec, collection)
    pictures, left_out = draw_figures(spec, collection, tables)
    faults = fault_part(spec, collection)
    for picture in [*pictures, *([faults.picture] if faults else [])]:
        _write(folder / f"{picture.name}.svg", picture.svg)
        with write_atomically(folder / f"{picture.name}.png") as path:
            path.write_bytes(picture.png)
    if "md" in formats:
        shown = [(f"{picture.name}.svg", picture.title, picture.caption) for picture in pictures]
        _write(folder / "table.md", markdown(spec, tables, shown, standings))
    if "html" in formats:
        from reports.cards import method_cards
        from reports.page import render
        from reports.page_pairs import judged_rows, pairs_part

        agreement = agreement_of(collection)
        parts = {
            "faults": faults,
            "pairs": pairs_part(spec, collection),
            "judged": judged_rows(spec, collection),
            "cards": method_cards(spec, collection),
        }
        page = render(spec, collection, tables, pictures, left_out, agreement, standings, parts, folder)
        _write(folder / "index.html", page)


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
