"""Running a sweep on this machine by submitit's local executor: several at a time, each in its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from harness.errors import UserError
from harness.launch import job
from harness.launch.private import private_folder
from harness.launch.resources import check_resources
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.record.record import Status, record_as_found
from harness.run.scheduler import outside_of_allocations

POLL_SECONDS = 0.5
# submitit would end a run at its time limit; on a machine of one's own there is none.
NO_LIMIT_MINUTES = 60 * 24 * 365


@dataclass
class _Running:
    run: ExpectedRun
    handle: Any
    gpus: list[int]


@dataclass
class Local:
    """Runs in progress. `on_change` is called after every change, and from time to time in between."""

    runs_dir: Path
    manifest: Manifest
    waiting: list[ExpectedRun]
    parallel: int
    on_change: Callable[[], None]
    running: list[_Running] = field(default_factory=list)
    free_gpus: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free_gpus = visible_gpus()
        for run in self.waiting:
            check_resources(run.resources)
            needed = run.resources["gpus"]
            if needed > len(self.free_gpus):
                raise UserError(f"launcher.gpus={needed}, but this machine has {len(self.free_gpus)} GPUs")
            if run.resources["nodes"] != 1:
                raise UserError("launcher.nodes needs launcher=slurm; launcher=local has one node")
        name = f"{self.manifest.sweep}-{uuid.uuid4().hex[:8]}"
        folder = (self.runs_dir / "sweeps" / self.manifest.sweep / "jobs" / name).absolute()
        self.submission = Submission(name, str(folder), "local", [], [], time.time(), host=socket.gethostname())
        self.manifest.submissions.append(self.submission)
        self.unfinished = {run.run_id for run in self.waiting}

    def work(self) -> bool:
        """Runs until nothing can be started any more; False when Ctrl-C or another signal ended it, runs saved."""
        try:
            with _signals_end_like_ctrl_c():
                while self.running or self._next() is not None:
                    self._start()
                    self._reap()
                    self.on_change()
                    time.sleep(POLL_SECONDS)
            return True
        except KeyboardInterrupt:
            self._stop()
            return False

    def _next(self) -> ExpectedRun | None:
        """The first run whose parents are all complete."""
        return next((run for run in self.waiting if self._is_ready(run)), None)

    def _is_ready(self, run: ExpectedRun) -> bool:
        if self.unfinished.intersection(run.parents) or run.resources["gpus"] > len(self.free_gpus):
            return False
        return self._parents_complete(run)

    def _start(self) -> None:
        while len(self.running) < self.parallel and (run := self._next()) is not None:
            self.waiting.remove(run)
            gpus = [self.free_gpus.pop(0) for _ in range(run.resources["gpus"])]
            executor = submitit.LocalExecutor(folder=self.submission.folder)
            executor.update_parameters(
                timeout_min=NO_LIMIT_MINUTES,
                tasks_per_node=run.resources["ranks"],
                gpus_per_node=len(gpus),
                visible_gpus=gpus,
            )
            private = private_folder(Path(self.submission.folder))
            with private, _interrupts_ignored_by_children(), _without_working_folder(), outside_of_allocations():
                handle = executor.submit(job.start, run, str(self.runs_dir))
            self.running.append(_Running(run, handle, gpus))
            self.submission.run_ids.append(run.run_id)
            self.submission.job_ids.append(str(handle.job_id))
            write_manifest(self.runs_dir, self.manifest)

    def _reap(self) -> None:
        for one in [one for one in self.running if one.handle.done()]:
            self.running.remove(one)
            self.free_gpus = sorted([*self.free_gpus, *one.gpus])
            self.unfinished.discard(one.run.run_id)
        # What can no longer start because a parent ended badly counts as ended, so that its own children see it.
        for run in self.waiting:
            if not self.unfinished.intersection(run.parents) and not self._parents_complete(run):
                self.unfinished.discard(run.run_id)

    def _parents_complete(self, run: ExpectedRun) -> bool:
        records = [record_as_found(self.runs_dir, parent) for parent in run.parents]
        return all(record is not None and record.status is Status.complete for record in records)

    def _stop(self) -> None:
        """Asks the runs to save and waits for them; a second Ctrl-C goes through."""
        for one in self.running:
            os.kill(int(one.handle.job_id), signal.SIGTERM)
        while self.running:
            self._reap()
            self.on_change()
            time.sleep(POLL_SECONDS)


def visible_gpus() -> list[int]:
    """Indices of the GPUs that this process may use, found without CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [int(index) for index in chosen.split(",") if index.strip().isdecimal()]
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return list(range(len(answer.stdout.splitlines()))) if answer.returncode == 0 else []


@contextmanager
def _signals_end_like_ctrl_c() -> Iterator[None]:
    """A `kill` and a terminal that closes must not leave runs behind that nobody follows."""
    watched = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # nohup's
    earlier = {number: signal.signal(number, signal.default_int_handler) for number in watched}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _interrupts_ignored_by_children() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; submitit's controller would give its run one second, then kill it.

    An ignored signal stays ignored in a child, and the run itself installs its own handler.
    """
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """submitit starts `python -m`, which would import a user's own methods.py from the working folder."""
    earlier = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if earlier is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = earlier
