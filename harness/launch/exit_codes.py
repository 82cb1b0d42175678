"""The exit codes of commands about many runs, for scripts to rely on; the table is in docs/reference/run-states.md."""

from __future__ import annotations

from collections.abc import Sequence

from harness.launch.state import RunState, State
from harness.record.record import Status
from harness.run.outcome import EXIT_CODES

# As a single run's.
FAILED, NOT_UNDER_WAY, STOPPED = (EXIT_CODES[each] for each in (Status.failed, Status.waiting, Status.interrupted))
UNKNOWN = 69  # sysexits.h's EX_UNAVAILABLE: a service, here the scheduler, is not there
_CODES = {
    State.failed: FAILED,
    State.unknown: UNKNOWN,
    State.interrupted: STOPPED,
    State.cancelled: NOT_UNDER_WAY,
    State.waiting: NOT_UNDER_WAY,
    State.missing: NOT_UNDER_WAY,
}


def exit_code(rows: Sequence[RunState]) -> int:
    """The exit code of the worst run, in the order above; 0 if all are complete or under way."""
    states = {row.state for row in rows}
    return next((code for state, code in _CODES.items() if state in states), 0)
