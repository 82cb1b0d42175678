"""Several runs side by side in one job of SLURM, on the same GPUs, cores and memory: a process each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from harness.launch import job
from harness.record.manifest import ExpectedRun
from harness.record.record import Status
from harness.run import scheduler
from harness.run.outcome import EXIT_CODES
from harness.run.signals import STOP_SIGNALS, StopFlag, held_back

POLL_SECONDS = 0.5


def start(runs: list[ExpectedRun], folder: str) -> None:
    """Executes runs until all of them have ended; queues the job again if some were asked to stop.

    The job fails if a run has failed, once the others have ended. A run that failed in it before, and one that was
    cancelled, is left alone.
    """
    with StopFlag() as stop:
        if runs[0].resources.get("comment") is None:
            scheduler.name_self(" ".join(run.run_id for run in runs))
        codes = _wait([_spawn(run, folder) for run in runs], stop)
        if EXIT_CODES[Status.interrupted] in codes:
            print(scheduler.requeue_self(), file=sys.stderr)
        elif any(codes):
            sys.exit(EXIT_CODES[Status.failed])


def _spawn(run: ExpectedRun, folder: str) -> BaseProcess:
    """A run's process; stop signals are held back there until the run can hear them."""
    child = multiprocessing.get_context("spawn").Process(target=_execute, args=(run, folder), name=run.run_id)
    # The tracker comes with the first child and must outlive signals, too; starting it, Python 3.11 unblocks them.
    with held_back():
        resource_tracker.ensure_running()
    with held_back():
        child.start()
    return child


def _execute(run: ExpectedRun, folder: str) -> None:
    os.setpgrp()  # a signal to the job's processes comes through the parent, once
    code = 0

    def queue_again() -> str:
        nonlocal code
        code = EXIT_CODES[Status.interrupted]
        return "its job is queued again once the other runs in it have saved"

    try:
        job.start(run, folder, queue_again)
    finally:
        # SLURM may send the signal to every process, and then it comes twice: what has saved itself does not end by it.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _wait(children: Sequence[BaseProcess], stop: StopFlag) -> list[int]:
    """The exit codes of all; a stop that is asked for is handed on."""
    told = False
    while alive := [child for child in children if child.is_alive()]:
        if stop.is_set() and not told:
            told = True
            for child in alive:
                os.kill(child.pid or 0, signal.SIGTERM)
        wait([child.sentinel for child in alive], POLL_SECONDS)
    return [child.exitcode or 0 for child in children]
