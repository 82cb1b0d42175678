"""Mixed precision as every engine has it."""

from __future__ import annotations

import torch

from harness.config import Precision

HALF = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


def autocast(device: torch.device, precision: Precision, wanted: bool = True) -> torch.autocast:
    """Half precision on a device while the context lasts; none for fp32, or where it is not `wanted`."""
    return torch.autocast(device.type, HALF.get(precision), enabled=wanted and precision in HALF)
