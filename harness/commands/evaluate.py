"""`harness evaluate`: LVIS average precision of a results file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.data.lvis.cache import load_annotations
from harness.errors import UserError, not_written
from harness.evaluate.detections import Detections
from harness.evaluate.lvis_ap import evaluate
from harness.evaluate.matching import IouType
from harness.record.files import write_json

IOU_TYPES: dict[str, tuple[IouType, ...]] = {"bbox": ("bbox",), "segm": ("segm",), "both": ("bbox", "segm")}


def evaluate_command(
    detections: Path,
    annotations: Path,
    iou: str = "both",
    json_out: Path | None = None,
    ignore_unknown: bool = False,
) -> None:
    """Prints the figures of a results file (JSON or Parquet), in percent.

    `json_out` is written as {"bbox": {"AP": fraction, ..., "per_category": {category id: fraction}}, "segm": ...},
    unrounded, null where undefined. `ignore_unknown` leaves out categories that the annotations lack. Raises UserError
    for an unreadable file or an unknown image or category.
    """
    if iou not in IOU_TYPES:
        raise UserError(f"--iou {iou}: expected one of {', '.join(IOU_TYPES)}")
    truth = load_annotations(annotations)
    found = Detections.read(detections, truth)
    wanted = IOU_TYPES[iou]
    console = Console(markup=False)
    if iou == "both" and found.masks is None:
        console.print(f"{detections} holds no masks: boxes only")
        wanted = ("bbox",)
    evaluation = evaluate(truth, found, wanted, ignore_unknown=ignore_unknown)
    console.print(f"{len(found)} detections on {len(truth.image_ids)} images, in percent:")
    console.print(_table(evaluation.metrics))
    if json_out is not None:
        content = {t: {**evaluation.metrics[t], "per_category": evaluation.per_category(t)} for t in wanted}
        try:
            write_json(json_out, content)
        except OSError as error:
            raise not_written(json_out, error) from error


def _table(metrics: Mapping[Any, Mapping[str, float | None]]) -> Table:
    """Figures down, IoU types across, which stays readable on a narrow terminal."""
    table = Table("", *metrics)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in next(iter(metrics.values())):
        values = [found[name] for found in metrics.values()]
        table.add_row(name, *("–" if value is None else f"{100 * value:.2f}" for value in values))
    return table
