"""What a pool holds, as text and as a figure: the work of `harness data pool-stats`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.record.files import write_atomically
from methods.contract import DatasetFacts, Pool

GROUPS = {"r": "rare", "c": "common", "f": "frequent", "x": "extra"}
QUANTILES = (0, 25, 50, 75, 100)
LISTED = 12


def pool_stats(pool: Pool, facts: DatasetFacts, names: np.ndarray, out: Path | None = None) -> str:
    """A pool's instances per category and frequency group and by generator, its CLIP scores and areas, as text.

    names (C,): the dataset's category names; categories beyond are `extra`. With `out`, a figure (.png, .svg or .pdf)
    of the same is written there.
    """
    size = max(facts.num_categories, int(pool.categories.max(initial=-1)) + 1)
    counts = np.bincount(pool.categories, minlength=size)
    group = np.full(size, "x")
    group[: facts.num_categories] = facts.frequency
    if out is not None:
        _plot(pool, counts, group, out)
    return "\n".join(_lines(pool, counts, group, names))


def _lines(pool: Pool, counts: np.ndarray, group: np.ndarray, names: np.ndarray) -> Iterator[str]:
    yield f"{len(pool)} instances of {np.count_nonzero(counts)} categories"
    yield f"{'group':<10}{'categories':>11}{'with none':>11}{'instances':>11}{'fewest':>8}{'median':>8}{'most':>8}"
    for letter, name in GROUPS.items():
        own = counts[group == letter]
        if len(own):
            low, middle, high = own.min(), int(np.median(own)), own.max()
            yield f"{name:<10}{len(own):>11}{(own == 0).sum():>11}{own.sum():>11}{low:>8}{middle:>8}{high:>8}"
    yield from _shares(pool, "generator")
    yield from _shares(pool, "prompt_id")
    for column, unit in (("clip_score", "percent"), ("area_fraction", "share of its image")):
        values = _figures(pool, column)
        if len(values):
            quantiles = ", ".join(f"{q} %: {value:.3g}" for q, value in _quantiles(values))
            yield f"{column} ({unit}): {quantiles}"
    if "duplicate" in pool.columns:
        yield f"duplicates: {int(np.sum(pool.column('duplicate')))}"
    without = [str(names[c]) for c in np.flatnonzero(counts[: len(names)] == 0)]
    if without:
        more = f" and {len(without) - LISTED} more" if len(without) > LISTED else ""
        yield f"categories without instances: {', '.join(without[:LISTED])}{more}"


def _shares(pool: Pool, column: str) -> Iterator[str]:
    if column in pool.columns and len(pool):
        values, counts = np.unique(pool.column(column).astype(str), return_counts=True)
        order = np.argsort(-counts)[:LISTED]
        yield f"{column}: " + ", ".join(
            f"{values[i] or 'unknown'} {counts[i]} ({counts[i] / len(pool):.0%})" for i in order
        )


def _figures(pool: Pool, column: str) -> np.ndarray:
    """The finite values of a column, none where the pool lacks it."""
    if column not in pool.columns:
        return np.zeros(0)
    values = np.asarray(pool.column(column), np.float64)
    return values[np.isfinite(values)]


def _quantiles(values: np.ndarray) -> Iterator[tuple[int, float]]:
    yield from zip(QUANTILES, np.percentile(values, QUANTILES).tolist(), strict=True)


def _plot(pool: Pool, counts: np.ndarray, group: np.ndarray, out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    per_category, generators, scores, areas = figure.subplots(2, 2).ravel()
    for letter, name in GROUPS.items():
        own = np.sort(counts[group == letter])[::-1]
        if len(own):
            per_category.plot(np.linspace(0, 100, len(own)), own, label=f"{name} ({len(own)})")
    per_category.set(xlabel="share of the group's categories, %", ylabel="instances", title="instances per category")
    per_category.set_yscale("symlog")
    per_category.set_ylim(bottom=0)
    per_category.legend()
    _bars(generators, pool)
    for axes, column, title in ((scores, "clip_score", "CLIP score, %"), (areas, "area_fraction", "area fraction")):
        values = _figures(pool, column)
        if len(values):
            axes.hist(values, bins=60)
        else:
            axes.text(0.5, 0.5, f"the index has no column {column}", ha="center", transform=axes.transAxes)
        axes.set(xlabel=title, ylabel="instances")
    with write_atomically(out) as temporary:
        figure.savefig(temporary, format=out.suffix.lstrip(".") or "png", dpi=120)


def _bars(axes: Any, pool: Pool) -> None:
    if "generator" in pool.columns and len(pool):
        values, counts = np.unique(pool.column("generator").astype(str), return_counts=True)
        axes.barh([value or "unknown" for value in values], counts)
    else:
        axes.text(0.5, 0.5, "the index has no column generator", ha="center", transform=axes.transAxes)
    axes.set(xlabel="instances", title="by generator")
