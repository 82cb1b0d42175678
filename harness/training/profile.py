"""A trace of some steps, for chrome://tracing or Perfetto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import profiler

from harness.config import profile_steps


@contextmanager
def traced(text: str | None, path: Path) -> Iterator[Callable[[], None]]:
    """Gives what is to be called after each step; writes the trace of the asked steps, counted from here, to `path`."""
    if text is None:
        yield lambda: None
        return
    first, last = profile_steps(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    on_gpu = [profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profiler.profile(
        activities=[profiler.ProfilerActivity.CPU, *on_gpu],
        schedule=profiler.schedule(
            skip_first=max(first - 2, 0), wait=0, warmup=min(first - 1, 1), active=last - first + 1, repeat=1
        ),
        on_trace_ready=lambda done: done.export_chrome_trace(str(path)),
        acc_events=True,  # there is one cycle; without it torch warns that a second would clear it
    ) as running:
        yield running.step
