"""A detector's weights by name into a model of mmdet's."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from harness.weights.file import read_weights
from harness.weights.loading import Layout, layout_of, load_by_name, refusal


def load_weights(module: nn.Module, path: Path, *, averaged: bool = True) -> str:
    """Loads tensors by name; returns what matched, was missing and was left over.

    `averaged` chooses the moving average where a file holds both. Buffers may be missing.
    Raises UserError when a parameter is missing or has another shape.
    """
    weights = read_weights(path, averaged=averaged)
    layout, own = layout_of(weights.tensors), module.state_dict()
    if layout is not Layout.MMDET and not any(name in own for name in weights.tensors):
        raise refusal(path, layout, "mmdet")
    parameters = {name for name, _ in module.named_parameters()}
    return str(load_by_name(module, weights, may_lack=lambda name: name not in parameters))
