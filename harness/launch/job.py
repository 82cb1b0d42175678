"""What a job executes: one run of a sweep, and what to do when it was stopped."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import submitit

from harness.record.manifest import ExpectedRun
from harness.record.record import FailureKind, Record, Status, read_record, write_record
from harness.run import claim, scheduler
from harness.run.signals import StopFlag

# A run may be preempted any number of times as long as it gets on; so many starts in a row without a new checkpoint
# are taken for a limit that is too short.
MOST_FRUITLESS_STARTS = 5


def start(run: ExpectedRun, runs: str) -> None:
    """Executes a run in a job of SLURM or of submitit's local executor; returns nothing, since the record says it all.

    Stopped by a signal, the run has saved itself and rank 0 queues the job again. Raises what the run raised, so that
    the scheduler shows a failure as one.
    """
    with StopFlag():
        environment = submitit.JobEnvironment()
        folder = Path(runs) / run.run_id
        if cancelled_path(Path(runs), run.run_id).exists():
            return
        job = scheduler.own_job()
        is_main = environment.global_rank == 0
        if job and is_main and claim.fruitless_restarts(folder, job) >= MOST_FRUITLESS_STARTS:
            _give_up(run, Path(runs))
        _describe_ranks(environment)
        from harness.run.run import execute

        outcome = execute(run.overrides)
        if outcome.status is Status.interrupted and is_main and not cancelled_path(Path(runs), run.run_id).exists():
            scheduler.requeue_self()


def cancelled_path(runs: Path, run_id: str) -> Path:
    """Present while a run is cancelled: it is not to be queued again by its own job."""
    return runs / run_id / "cancelled"


def _give_up(run: ExpectedRun, runs: Path) -> None:
    earlier = read_record(runs, run.run_id)
    if earlier is None or earlier.status is not Status.complete:
        message = (
            f"started {MOST_FRUITLESS_STARTS} times without reaching a new checkpoint; "
            "raise launcher.minutes or lower schedule.checkpoint_minutes, then `harness retry`"
        )
        failure = {"kind": FailureKind.timeout.value, "message": message}
        write_record(runs, Record(run.run_id, run.name, Status.failed, failure=failure, ended=time.time()))
    sys.exit(f"{run.run_id}: no progress")


def _describe_ranks(environment: submitit.JobEnvironment) -> None:
    """Gives torch.distributed the variables that torchrun would, where the local executor starts several tasks."""
    if scheduler.own_job() or environment.num_tasks == 1:
        return
    os.environ.update(
        RANK=str(environment.global_rank),
        LOCAL_RANK=str(environment.local_rank),
        WORLD_SIZE=str(environment.num_tasks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(20000 + int(environment.job_id) % 40000),
    )
