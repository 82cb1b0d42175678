"""Learning curves: the training loss of every row, from metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from reports import style
from reports.collect import Collection, TableRow
from reports.spec import Spec
from reports.style import Picture, colour

BINS = 50  # of iterations
MOST_RUNS = 500  # of a report whose metrics are read


def draw_learning(spec: Spec, collection: Collection) -> Picture | None:
    """None where no run has left its losses, or runs are too many."""
    if len(collection.frame) > MOST_RUNS:
        return None
    rows = {row: curves for row in collection.with_runs(collection.rows) if (curves := _losses(collection, row))}
    if not rows:
        return None
    canvas, (axis,) = style.canvas(2.9)
    for place, (row, curves) in enumerate(rows.items()):
        iteration, loss = _binned(curves)
        axis.plot(iteration, loss, color=colour(place), lw=1.3, label=spec.label_in_group(row.label, row.group))
    axis.set(xlabel="iteration", ylabel="loss")
    style.legend_above(canvas, [axis])
    caption = (
        f"The training loss of {collection.seeds_of(list(rows))}, in {BINS} bins, mean over seeds; from metrics.jsonl. "
        "Losses of pasted and of plain images are not of the same difficulty: AP tells methods apart, not this."
    )
    return style.picture(canvas, "figure-learning", "Learning curves", caption)


def _losses(collection: Collection, row: TableRow) -> list[np.ndarray]:
    """(n, 2) iteration and loss of each run that has any."""
    found = (_read(collection.folder / run / "metrics.jsonl") for run in collection.complete(row.key)["run_id"])
    return [each for each in found if len(each)]


def _read(path: Path) -> np.ndarray:
    lines = path.read_text().splitlines() if path.is_file() else []
    entries = [json.loads(line) for line in lines]
    return np.array([(e["iteration"], e["loss"]) for e in entries if "loss" in e], float).reshape(-1, 2)


def _binned(curves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean iteration and loss of each bin that any curve has points in; each point of each seed counts as much."""
    iteration, loss = np.concatenate(curves).T
    which = np.minimum((iteration / iteration.max() * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    known = count > 0
    means = [np.bincount(which, values, BINS)[known] / count[known] for values in (iteration, loss)]
    return means[0], means[1]
