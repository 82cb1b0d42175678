"""How long a run's steps take by the clock that other processes on the machine disturb least."""

from __future__ import annotations

import time
from collections import deque

import torch


class StepClock:
    """Sums the time between `start` and `stop`: on a GPU its own, by events that are read once it has passed them; else
    the processor's, of all threads of this process. Loading, saving and evaluating are not in it."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.spent = 0.0
        self._begun = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        if self.on_gpu:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        else:
            self._begun = time.process_time()

    def stop(self) -> None:
        if self.on_gpu:
            self._events[-1][1].record()
            while self._events and self._events[0][1].query():
                self._read()
        else:
            self.spent += time.process_time() - self._begun

    def seconds(self) -> float:
        """Of all steps so far; waits for those that the GPU is still at."""
        while self._events:
            self._events[0][1].synchronize()
            self._read()
        return self.spent

    def _read(self) -> None:
        begin, end = self._events.popleft()
        self.spent += begin.elapsed_time(end) / 1000
