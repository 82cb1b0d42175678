"""Running a sweep on this machine: several runs at a time, each in a process of its own, or in one for each rank."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.errors import UserError
from harness.launch.forks import Forks, Request, is_alive
from harness.launch.resources import check_resources
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.record.record import Status, record_as_found

POLL_SECONDS = 0.5


@dataclass
class _Running:
    run: ExpectedRun
    ranks: list[psutil.Process]
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
        self.forks = Forks(folder)
        self.unfinished = {run.run_id for run in self.waiting}

    def work(self) -> bool:
        """Runs until nothing can be started any more; False when Ctrl-C or another signal ended it, runs saved."""
        try:
            with _signals_end_like_ctrl_c():
                while self.running or self._next() is not None:
                    self._reap()
                    self._start()
                    self.on_change()
                    time.sleep(POLL_SECONDS)
            return True
        except KeyboardInterrupt:
            self._stop()
            return False
        finally:
            self.forks.end()

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
            ranks = self.forks.start(Request(run, str(self.runs_dir), gpus))
            self.running.append(_Running(run, ranks, gpus))
            self.submission.run_ids.append(run.run_id)
            self.submission.job_ids.append(str(ranks[0].pid))
            write_manifest(self.runs_dir, self.manifest)

    def _reap(self) -> None:
        for one in [one for one in self.running if not any(map(is_alive, one.ranks))]:
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
        for rank in [rank for one in self.running for rank in one.ranks]:
            with suppress(psutil.NoSuchProcess):
                rank.terminate()
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
