"""Learning curves: every row's training loss, from metrics.jsonl, and AP where it was evaluated on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from harness.record.learning_curve import read_curve
from harness.record.reading import Damaged, read_bytes
from reports import style
from reports.collect import MOST_RUNS, Collection, TableRow
from reports.spec import IOU_TYPES, Spec
from reports.style import Picture, stroke

BINS = 50  # of iterations


def draw_learning(spec: Spec, collection: Collection) -> Picture | None:
    """None if no run has left its losses, or runs are too many."""
    if len(collection.frame) > MOST_RUNS:
        return None
    rows = {row: curves for row in collection.with_runs(collection.rows) if (curves := _losses(collection, row))}
    if not rows:
        return None
    kind = spec.primary.superscript if spec.primary else "box"
    evaluated = {row: points for row in rows if len(points := _points(collection, row, IOU_TYPES[kind]))}
    canvas, axes = style.canvas(2.9, 2 if evaluated else 1)
    for place, (row, curves) in enumerate(rows.items()):
        iteration, loss = _binned(curves)
        label = spec.label_in_group(row.label, row.group)
        axes[0].plot(iteration, loss, **stroke(place), lw=1.3, label=label)
        if row in evaluated:
            axes[1].plot(*_by_iteration(evaluated[row]), marker="o", ms=3, **stroke(place), lw=1.3, label=label)
    axes[0].set_title("loss")
    for axis in axes:
        axis.set_xlabel("iteration")
    caption = (
        f"The training loss of {collection.seeds_of(list(rows))}, in {BINS} bins, mean over seeds; from metrics.jsonl. "
        "Images with and without pasted objects differ in difficulty, so compare methods by AP, not by loss."
    )
    if evaluated:
        axes[1].set_title(f"AP, {kind}")
        caption += " AP during training and at the end, mean over seeds, from learning_curve.json."
    style.legend_above(canvas, axes)
    return style.picture(canvas, "figure-learning", "Learning curves", caption)


def _points(collection: Collection, row: TableRow, iou: str) -> np.ndarray:
    """(n, 2) iteration and AP in percent of the runs that were evaluated on the way, their ends with them."""
    found = []
    for run in collection.complete(row.key)["run"]:
        points = collection.tolerant(read_curve)(collection.folder / run.run_id)
        if points:
            end = {"iteration": run.record.cost.get("iterations"), **run.record.metrics}
            points = [*points, end]
            found += [(point["iteration"], point.get(iou, {}).get("AP")) for point in points]
    return np.array(found, float).reshape(-1, 2)


def _by_iteration(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each iteration once, and the mean AP of the seeds that were evaluated there."""
    iterations, which = np.unique(points[:, 0], return_inverse=True)
    return iterations, np.bincount(which, points[:, 1]) / np.bincount(which)


def _losses(collection: Collection, row: TableRow) -> list[np.ndarray]:
    """(n, 2) iteration and loss of each run that has any."""
    read = collection.tolerant(read_losses)
    found = (read(collection.folder / run / "metrics.jsonl") for run in collection.complete(row.key)["run_id"])
    return [each for each in found if each is not None and len(each)]


def read_losses(path: Path) -> np.ndarray:
    """(n, 2) iteration and loss of a metrics.jsonl; nothing if there is none. Raises Damaged."""
    found = []
    for number, line in enumerate((read_bytes(path) or b"").splitlines(), 1):
        try:
            entry = json.loads(line)
            if "loss" in entry:
                iteration, loss = int(entry["iteration"]), float(entry["loss"])
                if not 0 <= iteration < 2**53:
                    raise ValueError(f"iteration {iteration}")
                found.append((iteration, loss))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise Damaged(
                f"{path}: line {number} was not written by a run ({str(error)[:100]}); delete the line"
            ) from error
    return np.array(found, float).reshape(-1, 2)


def _binned(curves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean iteration and loss of each bin that any curve has points in; each point of each seed counts as much."""
    iteration, loss = np.concatenate(curves).T
    which = np.minimum((iteration / max(iteration.max(), 1) * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    known = count > 0
    means = [np.bincount(which, values, BINS)[known] / count[known] for values in (iteration, loss)]
    return means[0], means[1]
