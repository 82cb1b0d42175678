"""The learning curve of a run: what its detector was worth at iterations on the way, in `learning_curve.json`.

A point is an object: `iteration`, and by IoU type (bbox, segm) the metrics of a record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator
from typing_extensions import TypedDict

from harness.record.files import write_json
from harness.record.reading import of_types, read_json

NAME = "learning_curve.json"
FIGURES = tuple(
    f"{kind}.{figure}"
    for kind in ("bbox", "segm")
    for figure in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
)

Point = dict[str, Any]


class _Point(TypedDict):
    iteration: int
    bbox: NotRequired[dict[str, float | None]]
    segm: NotRequired[dict[str, float | None]]


def figure_of(point: Point, name: str) -> float:
    """One of `FIGURES`, in percent; minus infinity where it is undefined."""
    kind, figure = name.split(".")
    value = point[kind][figure]
    return -float("inf") if value is None else float(value)


def read_curve(folder: Path) -> list[Point]:
    """By rising iteration; empty if nothing was evaluated on the way. Raises Damaged."""
    kind = list[Annotated[dict[str, Any], AfterValidator(of_types(_Point))]]
    points: list[Point] | None = read_json(folder / NAME, kind, "a learning curve", "delete it")
    return points or []


def write_curve(folder: Path, points: list[Point]) -> None:
    write_json(folder / NAME, points)
