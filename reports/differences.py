"""Every row against its baselines: paired differences with intervals, and which of them earn a star.

Stars are for one column alone, the spec's `primary`, declared before the figures are there; its p-values are adjusted
over all rows of the report (Holm). Adjusting over all cells instead would ask four times as much of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.record.matches import read_matches
from reports.collect import Collection, TableRow
from reports.images import ImageParts
from reports.spec import Column, Spec
from reports.statistics import Difference, differences, holm

if TYPE_CHECKING:
    import pandas as pd

# By key of the row, key of the baseline in the spec, and key of the column.
Differences = Mapping[tuple[str, str, str], Difference]


@dataclass(frozen=True)
class Verdict:
    """Of a difference in the primary column to the first baseline: p of no difference, and p of one that matters, both
    adjusted over the rows of the report; NaN where untested."""

    p: float
    equivalent: float


def baseline_row(collection: Collection, row: TableRow, key: str) -> TableRow | None:
    """The row of this spec key that is in the same group and shares the values of common `each` settings."""
    for other in collection.by_spec_row.get((key, row.group), []):
        shared = set(other.values) & set(row.values)
        if all(other.values[setting] == row.values[setting] for setting in shared):
            return other
    return None


def compared(collection: Collection, spec: Spec) -> Iterable[tuple[TableRow, str, TableRow]]:
    """Each row with the keys and rows of its baselines."""
    for row, key in itertools.product(collection.rows, spec.baselines):
        other = baseline_row(collection, row, key)
        if other is not None and other is not row:
            yield row, key, other


def find_differences(spec: Spec, collection: Collection) -> Differences:
    """Of every row to every baseline in every metric. Seeds are paired where both runs saw the same validation
    images."""
    images = ImageParts(collection.folder, collection.tolerant(read_matches))
    metrics = [column for column in spec.columns if column.metric]
    keys, pairs, parts = [], [], []
    for row, key, other in compared(collection, spec):
        ours, theirs = paired_runs(collection.complete(row.key), collection.complete(other.key))
        runs = [side["run_id"].to_numpy() for side in (ours, theirs)]
        for column in metrics:
            values = ours[column.key].to_numpy(float) - theirs[column.key].to_numpy(float)
            known = ~np.isnan(values)
            keys.append((row.key, key, column.key))
            pairs.append(values[known])
            parts.append(images.of(runs[0][known], runs[1][known], column))
    found = zip(keys, differences(pairs, parts, spec.level), strict=True)
    return {key: difference for key, difference in found if difference is not None}


def paired_runs(ours: pd.DataFrame, baseline: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of the seeds that both have, where both were evaluated on the same images."""
    ours, baseline = of_shared_seeds(ours, baseline)
    same = ours["evaluated"].to_numpy() == baseline["evaluated"].to_numpy()
    return (ours, baseline) if same.all() else (ours[same], baseline[same])


def of_shared_seeds(ours: pd.DataFrame, baseline: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of the seeds that both have, mostly all of them: a thousand rows are not copied for it."""
    if ours.index.equals(baseline.index):
        return ours, baseline
    seeds = ours.index.intersection(baseline.index)
    return ours.loc[seeds], baseline.loc[seeds]


def find_verdicts(spec: Spec, found: Differences) -> dict[str, Verdict]:
    """By the row's key, of every difference in the primary column to the first baseline."""
    if not spec.baselines or spec.primary is None:
        return {}
    wanted = {key[0]: each for key, each in found.items() if key[1:] == (spec.baselines[0], spec.primary.key)}
    differing, equivalent = (holm([getattr(each, name) for each in wanted.values()]) for name in ("p", "equivalent"))
    return {key: Verdict(*each) for key, *each in zip(wanted, differing, equivalent, strict=True)}


def is_primary(spec: Spec, column: Column) -> bool:
    return spec.primary is not None and column.key == spec.primary.key
