"""How fast training goes, what it waits for, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from harness.data.sample import Batch


class Pace:
    """Clocks of a loop over batches, read now and then: each reading is of the steps since the last one."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._steps = 0
        self._since = time.monotonic()

    def batches(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the time taken that each is waited for."""
        iterator = iter(source)
        while True:
            begun = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - begun
            if batch is None:
                return
            yield batch
            self._steps += 1

    def read(self, left: int) -> dict[str, float]:
        """recent_steps_per_second; waiting: the share of the time in which the next batch was waited for; eta_seconds:
        until the `left` steps are done at this pace. Called within a step, which counts."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        speed = (self._steps + 1) / seconds
        found = {
            "recent_steps_per_second": speed,
            "waiting": min(self._waited / seconds, 1.0),
            "eta_seconds": left / speed,
        }
        self._waited, self._steps, self._since = 0.0, -1, time.monotonic()
        return found
