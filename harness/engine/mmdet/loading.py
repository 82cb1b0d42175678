"""A detector's weights by name into a model of mmdet's."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from harness.errors import UserError
from harness.weights.file import read_weights
from harness.weights.loading import Layout, layout_of, refusal, some_names


def load_weights(module: nn.Module, path: Path) -> str:
    """Loads what has the module's names; returns what became of the file.

    Buffers may be missing. Raises UserError when a parameter is missing or has another shape.
    """
    tensors = read_weights(path).tensors
    state = module.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if name in state}
    missing = [name for name, _ in module.named_parameters() if name not in found]
    layout = layout_of(tensors)
    if missing and not found and layout is not Layout.MMDET:
        raise refusal(path, layout, "mmdet")
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
