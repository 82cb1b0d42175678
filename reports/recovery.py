"""How much of an oracle's gain each row recovers: (row − reference) / (oracle − reference) in the primary column.

A quotient of noisy differences has no standard deviation worth the name, so its interval is Fieller's (1954, Some
problems in interval estimation): the shares s for which row − (1 − s) reference − s oracle is indistinguishable from
zero, by the same two-level test as every difference of the report. Where these shares form no interval, the oracle's
own gain is indistinguishable from noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.record.matches import read_matches
from reports.collect import Collection, TableRow
from reports.differences import baseline_row
from reports.images import ImageParts
from reports.spec import Column, Spec
from reports.statistics import ImagePart, differences, image_part

SHARES = np.linspace(-4.0, 6.0, 1001)  # that an interval is looked for among


@dataclass(frozen=True)
class Recovery:
    """A share of the oracle's mean gain, its interval (NaN where none is known), and over how many seeds."""

    share: float
    low: float
    high: float
    n: int


def find_recoveries(spec: Spec, collection: Collection) -> Mapping[str, Recovery]:
    """By the row's key; of rows that share seeds with both ends. Empty for a report that names no oracle."""
    if spec.gain is None or spec.primary is None:
        return {}
    images = ImageParts(collection.folder, collection.tolerant(read_matches))
    found = {}
    for row in collection.rows:
        ends = [baseline_row(collection, row, key) for key in (spec.gain.over, spec.gain.of)]
        if row in ends or ends[0] is None or ends[1] is None:
            continue
        recovery = _recovery(collection, [row, ends[0], ends[1]], spec.primary, images, spec.level)
        if recovery is not None:
            found[row.key] = recovery
    return found


def _recovery(
    collection: Collection, rows: list[TableRow], column: Column, images: ImageParts, level: float
) -> Recovery | None:
    """rows: the row itself, the reference and the oracle."""
    runs = [collection.complete(row.key) for row in rows]
    seeds = sorted(set.intersection(*(set(each.index) for each in runs)))
    seeds = [seed for seed in seeds if len({each.loc[seed, "evaluated"] for each in runs}) == 1]
    if not seeds:
        return None
    ours, reference, oracle = (each.loc[seeds, column.key].to_numpy(float) for each in runs)
    gain = float(oracle.mean() - reference.mean())
    share = float(ours.mean() - reference.mean()) / gain if gain else float("nan")
    moved = [[images.derivatives(each.loc[seed, "run_id"], column) for seed in seeds] for each in runs]
    lengths = {None if one is None else len(one) for each in moved for one in each}
    known = [np.array(each) for each in moved] if len(lengths) == 1 and None not in lengths else []
    parts: list[ImagePart | None] = [None] * len(SHARES)
    if len(known) == len(moved):
        parts = [image_part(known[0] - (1 - s) * known[1] - s * known[2]) for s in SHARES]
    pairs = [ours - (1 - s) * reference - s * oracle for s in SHARES]
    return Recovery(share, *_interval(pairs, parts, level), len(seeds))


def _interval(pairs: Sequence[np.ndarray], parts: Sequence[ImagePart | None], level: float) -> tuple[float, float]:
    """The smallest and the largest share that the test does not reject; NaN if they reach beyond `SHARES` or it rejects
    some between."""
    tested = differences(pairs, parts, level)
    inside = np.array([each is not None and each.low <= 0 <= each.high for each in tested])
    places = np.flatnonzero(inside)
    if not len(places) or inside[0] or inside[-1] or len(places) != np.ptp(places) + 1:
        return float("nan"), float("nan")
    return float(SHARES[places[0]]), float(SHARES[places[-1]])
