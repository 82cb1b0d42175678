"""`harness methods`: the table of methods, a new one's file, and the conformance kit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import methods
from harness.errors import UserError, nearest
from harness.launch.tables import console
from methods.listing import MethodRow, methods_table
from methods.template import new_method


def load_plugins(files: Sequence[Path]) -> None:
    """Reads files that register further methods. Raises UserError."""
    for path in files:
        _load(path)


def list_command(name: str | None = None) -> None:
    """Prints every method with its one line, options, needs and source; one method in full with `name`.

    Raises UserError.
    """
    rows = {row.name: row for row in methods_table()}
    out = console()
    if name is not None:
        _check_known(name)
        _print_one(out, rows[name])
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for row in rows.values():
        options = " ".join(f"{option.name}={option.default}" for option in row.own_options)
        lines = [
            row.summary,
            f"options: {options}" if options else "",
            f"needs: {', '.join(row.needs)}" if row.needs else "",
            f"source: {row.paper}" if row.paper else "",
            f"file: {row.origin}" if row.origin != "built in" else "",
        ]
        table.add_row(row.name, "\n".join(line for line in lines if line))
    out.print(table)
    out.print("`harness methods show NAME` shows a method's options in full.")


def new_command(name: str, folder: Path = Path()) -> str:
    """Writes a working method and its test into `folder`; returns what to do next. Raises UserError."""
    try:
        method, test = new_method(name, folder)
    except (ValueError, FileExistsError) as error:
        raise UserError(str(error)) from error
    return (
        f"{method}\n{test}\n"
        f"check it:  harness methods check {method}\n"
        f'run it:    harness run method={name} "method_paths=[{method}]" data.pool=half_bad'
    )


def check_command(which: str) -> int:
    """Runs the conformance kit on a method, by name or by the path of its file; returns the exit status.

    Raises UserError for a method that is not found.
    """
    from methods.conformance import run_checks

    names = _load(Path(which)) if which.endswith(".py") else [which]
    failed = 0
    out = console()
    for name in names:
        _check_known(name)
        report = run_checks(name)
        out.print(f"{name} ({report.method})", highlight=False)
        for result in report.results:
            mark = Text("failed", "red") if result.fault else Text("ok", "green")
            mark.pad_right(6 - len(mark))
            note = f": {result.fault or result.note}" if result.fault or result.note else ""
            out.print(Text.assemble("  ", mark, f" {result.name}{note}"), highlight=False)
        if report.cost:
            forward, backward = report.cost["forward"], report.cost["backward"]
            out.print(
                f"  a step takes {forward:.1f} forward and {backward:.1f} backward passes; a plain one 1 and 1",
                highlight=False,
            )
        failed += len(report.faults)
    return 1 if failed else 0


def _print_one(out: Console, row: MethodRow) -> None:
    out.print(Text.assemble((row.name, "bold"), f": {row.summary}"))
    out.print(f"source: {row.paper or '-'} ({row.origin})", highlight=False)
    out.print(f"needs of the engine, by default: {', '.join(row.needs) or 'nothing'}", highlight=False)
    for option in row.options:
        out.print(f"  method.{option}", markup=False, highlight=False)


def _load(path: Path) -> list[str]:
    try:
        return methods.load_file(path)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error


def _check_known(name: str) -> None:
    if name not in methods.names():
        raise UserError(f"{name}: no such method; {nearest(name, methods.names())}")
