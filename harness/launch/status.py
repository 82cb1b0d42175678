"""`harness status`: the table of all runs, once or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live

from harness.launch import tables
from harness.launch.cost import used
from harness.launch.exit_codes import exit_code
from harness.launch.select import select
from harness.launch.state import ACTIVE, RunState, State

# Between two looks, growing while nothing changes: many people watch one controller.
WATCH_SECONDS, MOST_WATCH_SECONDS = 5.0, 60.0


def status(runs_dir: Path, words: Sequence[str], watch: bool = False, as_json: bool = False, cost: bool = False) -> int:
    """Prints the state of runs (`words` as in `select`); the exit code is that of the worst.

    `watch` repeats it until nothing runs or waits in a queue any more, as far as is known; `cost` adds what was used.
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
    for sweep in dict.fromkeys(row.sweep for row in rows) if cost and not as_json else ():
        own = [row for row in rows if row.sweep == sweep]
        out.print(f"{sweep or 'single runs'}: {used(runs_dir, own)}", highlight=False)
    return exit_code(rows)


def _watch(runs_dir: Path, words: Sequence[str], rows: list[RunState]) -> list[RunState]:
    out = tables.console()
    pace = Pace()
    with Live(tables.states(rows, out.width), console=out, auto_refresh=False) as live:
        try:
            while under_way(rows):
                time.sleep(pace.seconds(rows))
                rows = select(runs_dir, words)
                live.update(tables.states(rows, out.width), refresh=True)
        except KeyboardInterrupt:
            pass
    return rows


def under_way(rows: Sequence[RunState]) -> bool:
    """Whether waiting may change something: what is unknown may be running."""
    return any(row.state in (*ACTIVE, State.unknown) for row in rows)


class Pace:
    """How long to wait until the next look: twice as long as before while the states stay as they are."""

    def __init__(self) -> None:
        self._seconds = WATCH_SECONDS / 2
        self._last: list[State] | None = None

    def seconds(self, rows: Sequence[RunState]) -> float:
        states = [row.state for row in rows]
        self._seconds = min(2 * self._seconds, MOST_WATCH_SECONDS) if states == self._last else WATCH_SECONDS
        self._last = states
        return self._seconds
