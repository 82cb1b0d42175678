"""Requests to stop: signal handlers only set a flag, and the training loop reads it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGUSR2 comes ahead of a time limit or a preemption with grace, SIGTERM with every other end, SIGINT from Ctrl-C.
STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A run was asked to stop, on this rank or another, and has saved what it resumes from."""


class StopFlag:
    """Set by SIGUSR2, SIGTERM or the first Ctrl-C; a second Ctrl-C interrupts at once.

    Signals that were blocked until now, as `harness.launch.held` does before a job's Python starts, arrive at once.
    A context manager that restores the earlier handlers; one inside another starts in the state of the outer one.
    Outside the main thread it installs nothing, since Python allows handlers only there.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._earlier: dict[int, object] = {}

    def is_set(self) -> bool:
        return self.reason is not None

    def __enter__(self) -> StopFlag:
        outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if isinstance(outer, StopFlag):
            self.reason = outer.reason
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._earlier[number] = signal.signal(number, self._handle)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._earlier.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


@contextmanager
def held_back(*numbers: int) -> Iterator[None]:
    """Stop signals, and those named, are blocked meanwhile: in this thread, and in processes that it starts.

    Blocked signals stay so over exec and fork. They reach a run as soon as it can hear them, and it saves itself.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, *numbers))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
