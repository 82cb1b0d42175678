"""What a pass through any engine's detector runs in: its precision, and where its random draws come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.config import Precision

HALF = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


def autocast(device: torch.device, precision: Precision, wanted: bool = True) -> torch.autocast:
    """A context that runs a device's operations in half precision; does nothing for fp32, or unless `wanted`."""
    return torch.autocast(device.type, HALF.get(precision), enabled=wanted and precision in HALF)


@contextmanager
def drawing_from(rng: torch.Generator) -> Iterator[None]:
    """Seeds the process's generator like `rng`, for code that draws from it (stochastic depth, a framework's samplers).

    Restores the generator's state afterwards.
    """
    with torch.random.fork_rng(devices=[rng.device] if rng.device.type == "cuda" else []):
        torch.manual_seed(rng.initial_seed())
        yield
