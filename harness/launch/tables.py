"""Tables for people: the state of runs, what a submission did, what a dry run would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.launch.state import RunState, State

# A longer table shows what is running or went wrong, and counts the rest.
MOST_ROWS = 100
WIDE = 120  # characters
_COLOURS = {
    State.complete: "green",
    State.running: "cyan",
    State.pending: "blue",
    State.waiting: "yellow",
    State.interrupted: "yellow",
    State.failed: "bold red",
    State.cancelled: "magenta",
    State.unknown: "bold yellow",
    State.missing: "dim",
}


def console() -> Console:
    """Standard output; wide if it is not a terminal, so that lines are not broken in logs and pipes.

    Names of runs may hold brackets, which must not count as Rich's markup.
    """
    plain = Console(markup=False)
    return plain if plain.is_terminal else Console(width=200, markup=False)


def states(rows: Sequence[RunState], width: int = 200) -> RenderableType:
    """One table a sweep, each with a line that counts the states; on a narrow terminal without ids."""
    parts: list[RenderableType] = []
    for sweep in dict.fromkeys(row.sweep for row in rows):
        own = [row for row in rows if row.sweep == sweep]
        shown = _shown(own)
        parts += [_state_table(shown, width)]
        if len(shown) < len(own):
            parts.append(Text(f"{len(own) - len(shown)} more runs are not shown; filters or --json show them"))
        parts += [Text(f"{sweep or 'single runs'}: {counts(own)}", style="bold"), Text()]
    return Group(*parts)


def _shown(rows: Sequence[RunState]) -> Sequence[RunState]:
    if len(rows) <= MOST_ROWS:
        return rows
    quiet = (State.complete, State.pending, State.missing)
    return [row for row in rows if row.state not in quiet][:MOST_ROWS]


def counts(rows: Sequence[RunState]) -> str:
    """Such as "16 runs: 12 complete, 3 running, 1 failed (1 out of memory)"."""
    number = Counter(row.state for row in rows)
    words = [f"{number[state]} {state.value}" for state in State if number[state]]
    if stale := sum(row.stale for row in rows):
        words.append(f"stale: {stale}")
    kinds = Counter(row.failure_kind for row in rows if row.state is State.failed and row.failure_kind)
    if kinds:
        words.append("failures: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return f"{len(rows)} runs: {', '.join(words)}"


def progress(rows: Sequence[RunState]) -> str:
    """Such as "3 of 18 runs done; bsgal seed=1 at step 120 of 200, 0:34 left; xpaste seed=0 evaluating"."""
    done = sum(row.state is State.complete for row in rows)
    return "; ".join([f"{done} of {len(rows)} runs done", *(_at(row) for row in rows if row.state is State.running)])


def _at(row: RunState) -> str:
    name = axes(row.run.name, row.run.axes)
    if row.iteration is None:
        return f"{name} starting"
    if row.iteration == row.run.iterations:
        return f"{name} evaluating"
    left = "" if row.eta is None else f", {duration(row.eta)} left"
    return f"{name} at step {row.iteration} of {row.run.iterations}{left}"


def _state_table(rows: Sequence[RunState], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = {heading: [cell(row) for row in rows] for heading, cell in _COLUMNS.items()}
    kept = [
        heading for heading, cells in columns.items()
        if any(str(cell) for cell in cells) and (width >= WIDE or heading not in _WIDE_ONLY)
    ]  # fmt: skip
    for heading in kept:
        number = heading in _NUMBERS
        table.add_column(heading, justify="right" if number else "left", no_wrap=heading != "why", overflow="fold")
    for cells in zip(*(columns[heading] for heading in kept), strict=True):
        table.add_row(*cells)
    return table


def _metric(row: RunState, kind: str, name: str) -> str:
    value = (row.metrics or {}).get(kind, {}).get(name)
    return f"{value:.1f}" if value is not None else ""


_COLUMNS: dict[str, Callable[[RunState], str | Text]] = {
    "run": lambda row: row.run.run_id,
    "row": lambda row: axes(row.run.name, row.run.axes),
    "state": lambda row: Text(row.state.value, style=_COLOURS[row.state]),
    "progress": lambda row: f"{row.iteration}/{row.run.iterations}" if row.iteration is not None else "",
    "loss": lambda row: f"{row.loss:.3f}" if row.loss is not None else "",
    "ETA": lambda row: duration(row.eta) if row.eta is not None else "",
    "AP box": lambda row: _metric(row, "bbox", "AP"),
    "APr box": lambda row: _metric(row, "bbox", "APr"),
    "AP mask": lambda row: _metric(row, "segm", "AP"),
    "job": lambda row: row.job or "",
    "why": lambda row: Text(row.reason),
}
_NUMBERS = ("progress", "loss", "ETA", "AP box", "APr box", "AP mask")
_WIDE_ONLY = ("run", "job", "AP mask")


def axes(name: str, values: dict[str, str]) -> str:
    """A run's row and what else the grid varies, such as "bsgal seed=1"."""
    hidden = ("name", "method", "schedule", "data.pool")
    return " ".join([name, *(f"{key}={value}" for key, value in values.items() if key not in hidden)])


def duration(seconds: float) -> str:
    """Such as 3:05 or 27:00:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
