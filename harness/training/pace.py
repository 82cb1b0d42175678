"""How fast training goes, what it waits for, and when it will be done."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator

import torch

from harness.data.sample import Batch


class Pace:
    """Clocks of a loop over batches, read now and then: each reading is of the steps since the last one."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins to count between two steps, after something that is no step."""
        self._waited = 0.0
        self._steps = 0
        self._since = time.monotonic()

    def steps(self, source: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """The batches of each step, with the time taken that they are waited for."""
        iterator = iter(source)
        while True:
            begun = time.monotonic()
            batches = next(iterator, None)
            self._waited += time.monotonic() - begun
            if batches is None:
                return
            self._steps += 1
            yield batches

    def read(self, left: int, images: int) -> dict[str, float]:
        """recent_steps_per_second, and images_per_second at so many `images` a step; waiting: the share of the time in
        which the next batch was waited for; eta_seconds: until the `left` steps are done at this pace. Called within a
        step, which counts."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        speed = self._steps / seconds
        found = {
            "recent_steps_per_second": speed,
            "images_per_second": images * speed,
            "waiting": min(self._waited / seconds, 1.0),
            "eta_seconds": left / speed,
        }
        self.restart()
        return found


def peak_memory_mb(device: torch.device) -> float:
    """The most that this process has held so far: on a GPU of its memory, else of the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
