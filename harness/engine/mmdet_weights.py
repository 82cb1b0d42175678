"""Checkpoints of mmengine's Runner, read without executing code.

Beside the weights they hold the log, as objects of a class of mmengine's; mmengine's own reader calls `torch.load` as
it was before that refused such objects.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.detector.checkpoint import some_names
from harness.detector.weights_file import read_weights
from harness.errors import UserError

HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
SHOWN = 4  # names in a message


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


def load_weights(module: nn.Module, path: Path, prefix: str = "") -> str:
    """Loads what has the module's names, `prefix` taken off where the file has it; returns what became of the file.

    Buffers may be missing. Raises UserError when a parameter is missing or has another shape.
    """
    with readable_logs():
        weights = read_weights(path)
    state = module.state_dict()
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items()}
    found = {name: tensor for name, tensor in tensors.items() if name in state}
    missing = [name for name, _ in module.named_parameters() if name not in found]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of this detector's parameters: {some_names(missing)}")
    for name, tensor in found.items():
        if tensor.shape != state[name].shape:
            theirs, mine = tuple(tensor.shape), tuple(state[name].shape)
            raise UserError(f"{path}: {name} has shape {theirs} where this detector has {mine}; see data.num_classes")
    module.load_state_dict(found, strict=False)
    left = sorted(tensors.keys() - found.keys())
    return f"{path.name}: {len(found)} tensors loaded, {len(left)} left over" + (
        f" ({some_names(left)})" if left else ""
    )
