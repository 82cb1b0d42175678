"""Figures of what selecting methods decided: over training, and against a pool's hidden truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.record.decisions import contribution_roc
from reports import style
from reports.collect import Collection, TableRow
from reports.decisions import decisions_of
from reports.spec import Figure as FigureSpec
from reports.spec import Spec
from reports.style import RULE, Picture, colour, stroke
from reports.table import Table

if TYPE_CHECKING:
    import pandas as pd


def draw_training(
    spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str
) -> Picture | str:
    """Acceptance rate and contribution against the iteration, in twenty bins."""
    rows = {row: found for row in collection.rows if (found := decisions_of(collection, row))}
    if not rows:
        return "no complete run has logged decisions"
    deciding = {row: runs for row, runs in rows.items() if any(run["contribution"].notna().any() for run in runs)}
    canvas, axes = style.canvas(2.8, 2 if deciding else 1)
    for place, (row, runs) in enumerate(rows.items()):
        label = spec.label_in_group(row.label, row.group)
        middle, accepted = _binned(runs, "accepted")
        axes[0].plot(middle, 100 * accepted.mean(0), **stroke(place), label=label)
        if row in deciding:
            middle, contribution = _binned(runs, "contribution")
            axes[1].plot(middle, contribution.mean(0), **stroke(place), label=label)
            axes[1].fill_between(
                middle, contribution.min(0), contribution.max(0), color=colour(place), alpha=0.15, lw=0
            )
            middle, threshold = _binned(runs, "threshold")
            axes[1].plot(middle, threshold.mean(0), color=colour(place), lw=1, ls=(0, (2, 2)))
    axes[0].set_title("accepted, %")
    axes[0].set_ylim(-3, 103)
    if deciding:
        axes[1].set_title("contribution")
    for axis in axes:
        axis.set_xlabel("iteration")
    style.legend_above(canvas, axes[:1])
    caption = f"From the decision logs of {collection.seeds_of(list(rows))}, in twenty bins, mean over seeds"
    caption += "; the band spans the seeds, the dashed line is the threshold." if deciding else "."
    return style.picture(canvas, name, figure.title, caption)


def _binned(runs: list[pd.DataFrame], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Middles of twenty bins of iterations (those without a decision left out), and the bins' means, (runs, bins)."""
    last = max(run["iteration"].max() for run in runs)
    edges = np.linspace(0, last, 21)
    means = []
    for run in runs:
        which = np.clip(np.digitize(run["iteration"], edges, right=True) - 1, 0, 19)
        grouped = run[column].astype(float).groupby(which).mean()
        means.append(grouped.reindex(range(20)).to_numpy())
    table = np.array(means)
    known = ~np.isnan(table).any(0)
    return ((edges[1:] + edges[:-1]) / 2)[known], table[:, known]


def draw_roc(spec: Spec, collection: Collection, tables: list[Table], figure: FigureSpec, name: str) -> Picture | str:
    """The contribution's ROC against the pool's hidden truth, the seeds' decisions taken together."""
    import pandas as pd

    canvas, (axis,) = style.canvas(3.6)
    drawn: list[TableRow] = []
    for row in collection.rows:
        curve = contribution_roc(pd.concat(found)) if (found := decisions_of(collection, row)) else None
        if curve is not None:
            axis.plot(
                curve.bad,
                curve.good,
                **stroke(len(drawn)),
                label=f"{spec.label_in_group(row.label, row.group)}, area {curve.auroc:.2f}",
            )
            drawn.append(row)
    if not drawn:
        return "no complete run has both contributions and the hidden truth of its pool"
    axis.plot([0, 1], [0, 1], color=RULE, lw=1, zorder=0.5)
    axis.set_aspect("equal")
    axis.set(
        xlabel="share of bad instances kept",
        ylabel="share of clean instances kept",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axis.legend(loc="lower right")
    caption = (
        "Every threshold on the contribution, against the hidden truth of the embedded dataset's pool; an image's "
        f"contribution counts for each of its pasted instances. {collection.seeds_of(drawn)}, pooled; the "
        "diagonal is chance."
    )
    return style.picture(canvas, name, figure.title, caption)
