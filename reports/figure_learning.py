"""The figure of learning: the loss over training, and AP where runs were evaluated on the way."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reports import style
from reports.collect import Collection, TableRow
from reports.spec import Spec
from reports.style import Picture, colour

BINS = 40  # of the iterations, over which losses are averaged
MOST_RUNS = 100  # whose metrics are read
AP = {"box AP": ("bbox", "AP"), "box APr": ("bbox", "APr"), "mask AP": ("segm", "AP"), "mask APr": ("segm", "APr")}

Line = tuple[np.ndarray, np.ndarray]  # iterations and values


def draw_learning(spec: Spec, collection: Collection) -> list[Picture]:
    """One picture with a line a row, means over its seeds; none where no run has left metrics, or there are too many.

    The loss is that of metrics.jsonl beside the records, AP that of their `curve`.
    """
    rows = collection.with_runs(collection.rows)
    if sum(len(collection.complete(row.key)) for row in rows) > MOST_RUNS:
        return []
    panels: dict[str, dict[TableRow, Line]] = defaultdict(dict)
    for row in rows:
        runs = [entry["run"] for _, entry in collection.complete(row.key).iterrows()]
        losses = [line for run in runs if (line := _losses(collection.folder / run.run_id / "metrics.jsonl"))]
        if losses:
            panels["loss"][row] = _mean(losses)
        for title, (kind, figure) in AP.items():
            curves = [line for run in runs if (line := _curve(run.record.curve, kind, figure))]
            if curves:
                panels[title][row] = _mean(curves)
    if not panels:
        return []
    titles = [title for title in ("loss", *AP) if title in panels]
    canvas, axes = style.canvas(0.5 + 2.3 * -(-len(titles) // 2), min(2, len(titles)), -(-len(titles) // 2))
    for axis, title in zip(axes, titles, strict=False):
        for place, row in enumerate(rows):
            if row in panels[title]:
                label = spec.label_in_group(row.label, row.group)
                axis.plot(*panels[title][row], color=colour(place), label=label, lw=1.2)
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    axes[len(titles) - 1].set_xlabel("iteration")
    style.legend_above(canvas, axes[: len(titles)])
    made = f"Means over seeds, of {collection.seeds_of(rows)}; the loss from metrics.jsonl, averaged over stretches."
    evaluated = " AP in percent, of the weights that are evaluated in the end." if len(titles) > 1 else ""
    return [style.picture(canvas, "figure-learning", "Learning", made + evaluated)]


def _losses(path: Path) -> Line | None:
    """Mean losses of stretches of equal length; None without metrics."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return None
    iterations, losses = (np.array([line.get(name, np.nan) for line in lines], float) for name in ("iteration", "loss"))
    if not np.isfinite(losses).any():
        return None
    stretch = np.minimum((iterations - 1) * BINS // lines[-1]["total"], BINS - 1).astype(int)
    found = [(iterations[stretch == i].max(), losses[stretch == i].mean()) for i in np.unique(stretch)]
    return np.array(found).T[0], np.array(found).T[1]


def _curve(points: list[Mapping[str, Any]], kind: str, figure: str) -> Line | None:
    known = [(point["iteration"], point[kind][figure]) for point in points if point[kind].get(figure) is not None]
    return (np.array(known).T[0], np.array(known).T[1]) if known else None


def _mean(lines: list[Line]) -> Line:
    """At the iterations of any of them, over those that have one there."""
    values: dict[float, list[float]] = defaultdict(list)
    for iterations, figures in lines:
        for iteration, figure in zip(iterations.tolist(), figures.tolist(), strict=True):
            values[iteration].append(figure)
    at = sorted(values)
    return np.array(at), np.array([np.mean(values[iteration]) for iteration in at])
