"""Lets checkpoints of mmengine's Runner be read without executing code.

Beside the weights they hold the log, as objects of a class of mmengine's; mmengine's own reader calls `torch.load` as
it was before that refused such objects.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"


class _Log:
    """Takes the place of the log's class: a dictionary of what was in it."""

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def _attribute(owner: object, name: str) -> str:
    """Takes the place of `getattr`, by which the log names its methods."""
    return name


def readable_logs() -> AbstractContextManager[Any]:
    """Lets `torch.load(weights_only=True)` read the arrays of a Runner's log, and its class as an inert one."""
    array = np.zeros(1).__reduce__()[0]
    parts: list[Any] = [
        (array, f"{module}._reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ]
    getters = [(_attribute, f"{module}.getattr") for module in ("builtins", "__builtin__")]
    return torch.serialization.safe_globals([*parts, *getters, (_Log, HISTORY), np.ndarray])
