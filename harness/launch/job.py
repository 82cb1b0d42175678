"""What a job executes: one run of a sweep, and what follows when it is stopped."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import submitit

from harness.launch.resources import runs_a_job
from harness.record.manifest import ExpectedRun
from harness.record.reading import Damaged, read_bytes
from harness.record.record import FailureKind, Record, Status, read_record, record_as_found, write_record
from harness.run import claim, scheduler
from harness.run.loading import loading
from harness.run.outcome import EXIT_CODES, Outcome
from harness.run.signals import StopFlag

log = logging.getLogger("harness.launch.job")

# A run may be preempted any number of times as long as it gets on; so many starts in a row without a new checkpoint
# are taken for a limit that is too short.
MOST_FRUITLESS_STARTS = 5


def start(run: ExpectedRun, runs: str, queue_again: Callable[[], str] = scheduler.requeue_self) -> None:
    """Executes a run in a job of SLURM; returns nothing, since the record says it all.

    Stopped by a signal, the run has saved itself and rank 0 calls `queue_again`, whose answer is logged. Raises what
    the run raised, so that the scheduler shows a failure as one.
    """
    with StopFlag():
        folder, job = Path(runs) / run.run_id, scheduler.own_job()
        if is_cancelled(Path(runs), run.run_id, job):
            return
        if has_failed(record_as_found(Path(runs), run.run_id), job):
            # SLURM killed a rank that was about to end with the others, and the status of that queued the job again.
            sys.exit(f"{run.run_id}: failed in this job")
        is_main = submitit.JobEnvironment().global_rank == 0
        if job and is_main and claim.fruitless_restarts(folder, job) >= MOST_FRUITLESS_STARTS:
            _give_up(run, Path(runs))
        if is_main and run.resources.get("comment") is None and runs_a_job(run.resources) == 1:
            scheduler.name_self(run.run_id)
        outcome = _execute(run)
        # Where rank 0 is the one that was lost, any other queues the job again.
        if outcome.status is Status.interrupted and (is_main or outcome.peer_lost):
            from harness.console import run_log

            with run_log(folder / "log.txt", is_main):
                if is_cancelled(Path(runs), run.run_id, job):
                    log.info("cancelled; not queued again")
                    return
                log.info("%s", queue_again())


def start_here(run: ExpectedRun, runs: str, job: str) -> None:
    """Executes a run in a job of launcher=local, which nobody queues again. Raises what the run raised."""
    with StopFlag():
        if not is_cancelled(Path(runs), run.run_id, job):
            _execute(run)


def cancelled_path(runs: Path, run_id: str) -> Path:
    """The file with the ids of jobs in which a run was cancelled, and which must not queue it again."""
    return runs / run_id / "cancelled"


def is_cancelled(runs: Path, run_id: str, job: str | None) -> bool:
    """Whether a run was cancelled in `job`, its last one; a later job of the run does not count."""
    try:
        content = read_bytes(cancelled_path(runs, run_id))
    except (OSError, Damaged):
        return False
    if content is None:
        return False
    jobs = content.decode(errors="replace").split()
    return not jobs or job in jobs  # markers of older versions name no job


def has_failed(record: Record | None, job: str | None) -> bool:
    """Whether a run has ended in `job`, by its own fault or because a parent is missing."""
    if record is None or record.status not in (Status.failed, Status.waiting):
        return False
    return bool(record.provenance.get("job") == job)


def _give_up(run: ExpectedRun, runs: Path) -> None:
    earlier = read_record(runs, run.run_id)
    if earlier is None or earlier.status is not Status.complete:
        message = (
            f"started {MOST_FRUITLESS_STARTS} times without reaching a new checkpoint; "
            "raise launcher.minutes or lower schedule.checkpoint_minutes, then `harness retry`"
        )
        failure = {"kind": FailureKind.timeout.value, "message": message}
        made_by = {"job": scheduler.own_job()}
        record = Record(run.run_id, run.name, Status.failed, failure=failure, provenance=made_by, ended=time.time())
        record.cost = claim.spent(runs / run.run_id, 0.0)
        write_record(runs, record)
    sys.exit(f"{run.run_id}: no progress")


def _execute(run: ExpectedRun) -> Outcome:
    with loading():
        from harness.run.run import execute

    outcome = execute(run.overrides)
    if outcome.status is Status.waiting:
        sys.exit(EXIT_CODES[Status.waiting])  # what waits for this run's success is not to start
    return outcome
