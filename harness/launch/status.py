"""`harness status`: the table of all runs, once or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live

from harness.launch import tables
from harness.launch.select import select
from harness.launch.state import ACTIVE, RunState, State

WATCH_SECONDS = 5.0


def status(runs_dir: Path, words: Sequence[str], watch: bool = False, as_json: bool = False) -> int:
    """Prints how runs stand (`words` as in `select`); the exit code is 1 when one failed.

    `watch` repeats it until nothing runs or waits in a queue any more.
    """
    rows = select(runs_dir, words)
    out = tables.console()
    if as_json:
        print(json.dumps([row.as_json() for row in rows], indent=1))
    elif not rows:
        out.print(f"no runs in {runs_dir} yet; `harness sweep mini` makes some")
    elif watch:
        rows = _watch(runs_dir, words, rows)
    else:
        out.print(tables.states(rows, out.width))
    return 1 if any(row.state is State.failed for row in rows) else 0


def _watch(runs_dir: Path, words: Sequence[str], rows: list[RunState]) -> list[RunState]:
    out = tables.console()
    with Live(tables.states(rows, out.width), console=out, auto_refresh=False) as live:
        try:
            while any(row.state in ACTIVE for row in rows):
                time.sleep(WATCH_SECONDS)
                rows = select(runs_dir, words)
                live.update(tables.states(rows, out.width), refresh=True)
        except KeyboardInterrupt:
            pass
    return rows
