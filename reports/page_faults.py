"""The part of the page on what is wrong with false positives, and on scores: a table, and the reliability curves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.record.matches import read_half_matches
from reports import style
from reports.collect import MOST_RUNS, Collection, TableRow
from reports.differences import baseline_row, paired_runs
from reports.faults import BINS, CALIBRATION, KINDS, Calibration, calibration, fault_gains
from reports.page import Heading, Sheet, Shown, sortable
from reports.spec import IOU_TYPES, Spec
from reports.statistics import Difference, differences, summarise
from reports.style import MUTED, RULE, Picture, stroke
from reports.text import interval_text, number, spread_text, test_text

ABOUT = {
    "class": "right place, wrong class",
    "localisation": "right class, an IoU of 0.1 to 0.5",
    "both": "wrong class, and an IoU of 0.1 to 0.5",
    "duplicate": "an instance that was already detected",
    "background": "nothing there",
    "missed": "instances without any detection",
    CALIBRATION: "expected calibration error of scores, in percent",
}
NOTES = (
    "What AP50 would gain, in percent, if one kind of fault were fixed and the others left (TIDE, Bolya et al. 2020); "
    "below it, the difference from {baseline}. The gains of several kinds do not add up.",
    "calibration: how far scores are from the share of detections with that score that are correct at an IoU of 0.5, "
    "in percent, over ten bins (expected calibration error, Guo et al. 2017); 0 is best.",
)
OLD = "Left out, because they were evaluated before faults were recorded: {rows}."


@dataclass(frozen=True)
class FaultPart:
    """The table, the notes below it, and the reliability curves."""

    sheet: Sheet
    notes: list[str]
    picture: Picture


def fault_part(spec: Spec, collection: Collection) -> FaultPart | None:
    """Of masks where the primary column is of masks, else of boxes; None if no run has left its matches, or runs
    are too many."""
    if len(collection.frame) > MOST_RUNS:
        return None
    kind = spec.primary.superscript if spec.primary else "box"
    rows = {row: found for row in collection.rows if (found := _measured(collection, row, IOU_TYPES[kind]))}
    if not rows:
        return None
    tables = {
        row.key: pd.DataFrame([figures for _, figures in found.values()], list(found)) for row, found in rows.items()
    }
    lines = [_line(spec, collection, row, tables) for row in rows]
    headings = [Heading(""), *(Heading(name, about=ABOUT[name]) for name in (*KINDS, CALIBRATION))]
    baseline = spec.label_of(spec.baselines[0]) if spec.baselines else "the baseline"
    old = [_label(spec, row) for row in rows if tables[row.key]["missed"].isna().any()]
    notes = [note.format(baseline=baseline) for note in NOTES] + ([OLD.format(rows=", ".join(old))] if old else [])
    sheet = Sheet("faults", f"Faults, by {kind}", headings, lines)
    with style.styled():
        picture = _picture(spec, {row: [curve for curve, _ in found.values()] for row, found in rows.items()}, kind)
    return FaultPart(sheet, notes, picture)


Measured = Mapping[Hashable, tuple[Calibration, Mapping[str, float]]]


def _measured(collection: Collection, row: TableRow, iou: str) -> Measured:
    """By seed."""
    found: dict[Hashable, tuple[Calibration, Mapping[str, float]]] = {}
    for seed, run in collection.complete(row.key)["run_id"].items():
        matches = collection.tolerant(read_half_matches)(collection.folder / run, iou)
        if matches is not None:
            measured = calibration(matches)
            gains = fault_gains(matches) or dict.fromkeys(KINDS, float("nan"))
            found[seed] = (measured, {**gains, CALIBRATION: 100 * measured.error})
    return found


def _label(spec: Spec, row: TableRow) -> str:
    return spec.label_in_group(row.label, row.group)


def _line(spec: Spec, collection: Collection, row: TableRow, tables: Mapping[str, pd.DataFrame]) -> list[Shown]:
    other = baseline_row(collection, row, spec.baselines[0]) if spec.baselines else None
    shown = [Shown(_label(spec, row), _label(spec, row), link=f"#runs-{row.key}")]
    theirs = tables.get(other.key) if other is not None and other is not row else None
    beside = _differences(spec, collection, row, other, tables) if theirs is not None and other is not None else {}
    for name in tables[row.key]:
        summary, difference = summarise(tables[row.key][name]), beside.get(name)
        shown.append(
            Shown(
                text=number(summary.mean, 1) if summary.n else "not kept",
                sort=sortable(summary.mean),
                spread=spread_text(summary, 1),
                difference=number(difference.mean, 1, signed=True) if difference else "",
                interval=interval_text(difference, 1) if difference else "",
                dashed=difference is not None and difference.n == 2,
                test=test_text(difference, None) if difference else "",
            )
        )
    return shown


def _differences(
    spec: Spec, collection: Collection, row: TableRow, other: TableRow, tables: Mapping[str, pd.DataFrame]
) -> dict[Hashable, Difference | None]:
    """By figure, to the other row; over the seeds that both have, on the same images."""
    ours, _ = paired_runs(collection.complete(row.key), collection.complete(other.key))
    seeds = [seed for seed in ours.index if seed in tables[row.key].index and seed in tables[other.key].index]
    apart = tables[row.key].loc[seeds] - tables[other.key].loc[seeds]
    pairs = [apart[name].dropna().to_numpy(float) for name in apart]
    return dict(zip(apart, differences(pairs, [None] * len(pairs), spec.level), strict=True))


def _picture(spec: Spec, curves: Mapping[TableRow, list[Calibration]], kind: str) -> Picture:
    canvas, (axis,) = style.canvas(3.4)
    axis.plot([0, 1], [0, 1], color=RULE, lw=1, zorder=0.5)
    for place, (row, found) in enumerate(curves.items()):
        counts = np.sum([each.count for each in found], axis=0)
        with np.errstate(invalid="ignore"):
            score, hits = (
                np.nansum([getattr(each, name) * each.count for each in found], axis=0) / counts
                for name in ("score", "hits")
            )
        known = counts > 0
        axis.plot(score[known], hits[known], marker="o", ms=3.5, **stroke(place), label=_label(spec, row))
    axis.set_aspect("equal")
    axis.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axis.xaxis.label.set_color(MUTED)
    style.legend_above(canvas, [axis])
    caption = (
        f"The share of detections that are correct, in {BINS} bins of their score, over all seeds, judged "
        f"by their {kind} at an IoU of 0.5. On the diagonal a score is a probability, below it the detector is "
        "overconfident."
    )
    return style.picture(canvas, "figure-calibration", "Calibration of scores", caption)
