"""`harness weights inspect` and `harness weights convert`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from rich.table import Table
from torch import Tensor

from harness.errors import UserError
from harness.launch.tables import console
from harness.weights.file import read_weights
from harness.weights.loading import Layout, convert, layout_of

PREFIX_PARTS = 3  # dotted parts of a name that tensors are grouped by


def inspect_weights(path: Path, *, every: bool = False) -> None:
    """Prints what a file of weights holds: its layout, and tensors by the stem of their names (`every`: one by one)."""
    weights = read_weights(path)
    total = sum(tensor.numel() for tensor in weights.tensors.values())
    table = Table("name", "tensors", "parameters", "dtype", "shape" if every else "", box=None)
    for stem, tensors in _groups(weights.tensors, every).items():
        table.add_row(
            stem,
            str(len(tensors)),
            f"{sum(t.numel() for t in tensors):,}",
            ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors})),
            "x".join(map(str, tensors[0].shape)) if every else "",
        )
    terminal = console()
    terminal.print(table)
    parts = f"entries {', '.join(weights.parts)}, of which {weights.part}" if weights.part else "tensors by name"
    layout = layout_of(weights.tensors).value
    terminal.print(f"layout {layout}; {parts}: {len(weights.tensors)} tensors, {total:,} numbers")


def convert_weights(path: Path, out: Path, to: str = Layout.DETECTRON2.value) -> None:
    """Writes a detector's weights as `to` names them, detectron2 or native; `out` ends in .pth or .pkl."""
    targets = [Layout.DETECTRON2.value, Layout.NATIVE.value]
    if to not in targets:
        raise UserError(f"--to {to}: write {' or '.join(targets)}")
    if out.suffix not in (".pth", ".pkl"):
        raise UserError(f"{out}: the name must end in .pth (PyTorch) or .pkl (arrays)")
    left = convert(path, out, Layout(to))
    terminal = console()
    terminal.print(f"{out}: {to} layout")
    if left:
        terminal.print(f"left out, not part of this model: {', '.join(left)}")


def _groups(tensors: dict[str, Tensor], every: bool) -> dict[str, list[Tensor]]:
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        groups[name if every else ".".join(name.split(".")[:PREFIX_PARTS])].append(tensor)
    return groups
