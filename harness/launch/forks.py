"""Processes of runs on this machine. Loading torch and this package takes longer than many a run's first steps, so
they are forked from a process that has loaded them, once a sweep."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.errors import UserError
from harness.record.manifest import ExpectedRun
from harness.run.scheduler import outside_of_allocations
from harness.run.signals import held_back


@dataclass(frozen=True)
class Request:
    """A run to start. gpus: the indices of those that it may use."""

    run: ExpectedRun
    runs_dir: str
    gpus: list[int]


class Forks:
    """The process that runs are forked from, started when it is needed first. folder: of the runs' logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    def start(self, request: Request) -> list[psutil.Process]:
        """The processes of the run's ranks, rank 0 first. Raises UserError if there are none."""
        if self._server is None or self._server.poll() is not None:
            self._server = self._load()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        pickle.dump(request, self._server.stdin)
        self._server.stdin.flush()
        if not (numbers := self._server.stdout.readline().split()):
            raise UserError(f"the process that runs are started from ended with {self._server.wait()}, see above")
        return [psutil.Process(int(number)) for number in numbers]

    def end(self) -> None:
        """Ends the process; runs that are under way go on."""
        if self._server is not None:
            self._server.communicate()

    def _load(self) -> subprocess.Popen[bytes]:
        # -P: not a user's own methods.py in the working folder. -u: what runs print is in their logs at once.
        # The folder is a word of the command, so that the runs' processes are known by it.
        program = (
            "import sys; from harness.run.loading import loading\n"
            "with loading(): from harness.launch.loaded import serve\n"
            "serve(sys.argv[1])"
        )
        command = [sys.executable, "-P", "-u", "-c", program, str(self.folder)]
        self.folder.mkdir(parents=True, exist_ok=True)
        # A terminal, and who stops a group of processes, signals all of them. Of a terminal that closes none hears: the
        # launcher stops its runs then.
        with held_back(signal.SIGHUP), outside_of_allocations():
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
