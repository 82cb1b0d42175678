"""How a run ends for its caller: its outcome, and the exit code of its process."""

from __future__ import annotations

from dataclasses import dataclass

from harness.record.record import Status

# Beyond 1, an error: sysexits.h's EX_TEMPFAIL for what resumes when it is restarted.
EXIT_CODES = {Status.failed: 1, Status.waiting: 3, Status.interrupted: 75}


@dataclass(frozen=True)
class Outcome:
    """status is None if another process holds the run. peer_lost: it was stopped by the loss of another rank."""

    run_id: str
    status: Status | None
    message: str = ""
    peer_lost: bool = False
