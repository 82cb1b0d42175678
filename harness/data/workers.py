"""Loader workers that outlive the signals that tell a run to save."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import torch.distributed as dist

SETTLING_SECONDS = 0.5

# What a terminal, SLURM, torchrun, Docker and Kubernetes send to a whole process group: the run alone answers.
GROUP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


@contextmanager
def held_back() -> Iterator[None]:
    """Holds signals of the group back, to arrive afterwards.

    Processes started inside begin so, and therefore hear nothing before `start_worker`: torch installs a handler for
    SIGTERM of its own there that ends them.
    """
    if dist.is_available() and dist.is_initialized():
        # Once a collective is over, gloo's threads drop what it used, for which they enter Python. A process that
        # Python 3.11 forks at that moment never leaves os.fork: its copy of the interpreter's lock stays held.
        time.sleep(SETTLING_SECONDS)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # What was registered last is called first: before torch's and Python's own, which are no use here.
        atexit.unregister(_kill_workers)
        atexit.register(_kill_workers)


def _kill_workers() -> None:
    """Python ends daemons by SIGTERM at exit and waits for them, for ever if they ignore it."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def start_worker(worker: int) -> None:
    """The first thing that a worker does. One whose run has died ends by itself: torch watches for that."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # discards what was held back
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    cv2.setNumThreads(0)
