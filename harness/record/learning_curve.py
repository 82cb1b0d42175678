"""The learning curve of a run: what its detector was worth at iterations on the way, in `learning_curve.json`.

A point is an object: `iteration`, and by IoU type (bbox, segm) the metrics of a record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.record.files import write_json

NAME = "learning_curve.json"
FIGURES = tuple(
    f"{kind}.{figure}"
    for kind in ("bbox", "segm")
    for figure in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
)

Point = dict[str, Any]


def figure_of(point: Point, name: str) -> float:
    """One of `FIGURES`, in percent; minus infinity where it is undefined."""
    kind, figure = name.split(".")
    value = point[kind][figure]
    return -float("inf") if value is None else float(value)


def read_curve(folder: Path) -> list[Point]:
    """By rising iteration; empty where nothing was evaluated on the way."""
    path = folder / NAME
    return json.loads(path.read_bytes()) if path.is_file() else []


def write_curve(folder: Path, points: list[Point]) -> None:
    write_json(folder / NAME, points)
