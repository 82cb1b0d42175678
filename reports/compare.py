"""`harness compare`: two runs side by side. Metrics, every category's AP, what their configurations differ in, cost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.record.files import as_cell, write_atomically
from harness.record.matches import read_half_matches
from harness.record.names import find_record
from harness.record.record import Record, record_path
from reports import style
from reports.collect import canonical, evaluated_on
from reports.faults import CALIBRATION, KINDS, Calibration, calibration, fault_gains
from reports.figure import category_ap
from reports.images import ImageParts
from reports.page import Heading, Sheet, Shown, render_comparison, sortable
from reports.spec import COLUMNS, FREQUENCIES, IOU_TYPES, METRICS
from reports.statistics import image_interval
from reports.style import MUTED, Picture, colour
from reports.text import escape_markdown, number

if TYPE_CHECKING:
    import pandas as pd

COSTS = {
    "train_seconds": "training, s",
    "wall_seconds": "all, s",
    "steps_per_second": "steps/s",
    "peak_host_mb": "host memory, MB",
    "peak_gpu_mb": "GPU memory, MB",
}
LEVEL = 0.95
IMAGES_NOTE = (
    "In brackets the 95% interval over the validation images (from matches.parquet; none without): what other images "
    "would give for these two runs. It says nothing of other seeds."
)
FAULTS_NOTE = (
    "What AP50 would gain, in percent, if one kind of fault were fixed and the others left (TIDE, Bolya et al. 2020). "
    "calibration: the expected calibration error of scores at an IoU of 0.5, in percent."
)
OLD_NOTE = " A run without figures was evaluated before faults were kept."
BOTH_KINDS = tuple(f"{kind}, {side}" for kind in IOU_TYPES for side in ("A", "B", "B − A"))
OTHER_IMAGES = "The runs were evaluated on different validation images: their figures are not comparable."
MOST_CATEGORIES = 20  # shown on the page, of those that differ most; all are in categories.csv


def compare_command(run_a: str, run_b: str, runs: Path = Path("runs"), out: Path | None = None) -> Path:
    """Writes how run B differs from run A and returns the folder, `report/<A>-against-<B>` without `out`.

    run_a, run_b: run_ids, or beginnings that only one run has. The folder holds index.html, comparison.md,
    categories.csv where both runs left per-category figures, and the figure as SVG and PNG. Raises ValueError that
    names a run that is not there.
    """
    a, b = (find_record(runs, run) for run in (run_a, run_b))
    folder = out or Path("report") / f"{a.run_id}-against-{b.run_id}"
    folder.mkdir(parents=True, exist_ok=True)
    categories = _categories(runs, a, b)
    sheets = [_metrics(a, b, runs), *_faults(a, b, runs), _costs(a, b), _configuration(a, b)]
    pictures = []
    if categories is not None:
        with write_atomically(folder / "categories.csv") as path:
            categories.map(as_cell).to_csv(path)
        sheets.insert(1, _most_changed(categories))
        with style.styled():
            pictures.append(_picture(categories, a, b))
        for suffix, content in (("svg", pictures[0].svg.encode()), ("png", pictures[0].png)):
            with write_atomically(folder / f"{pictures[0].name}.{suffix}") as path:
                path.write_bytes(content)
    links = [(run.run_id, os.path.relpath(record_path(runs, run.run_id), folder)) for run in (a, b)]
    for name, text in (
        ("index.html", render_comparison(links, sheets, pictures)),
        ("comparison.md", _markdown(a, b, sheets, pictures)),
    ):
        with write_atomically(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    return folder


Figure = float | None


def _beside(label: str, mine: Figure, theirs: Figure, decimals: int) -> list[Shown]:
    """A label, both runs' figures and their difference."""
    change = None if mine is None or theirs is None else theirs - mine
    cells = [Shown(number(value, decimals), sortable(value), quiet=True) for value in (mine, theirs)]
    return [Shown(label, label), *cells, Shown(number(change, decimals, signed=True), sortable(change))]


def _sheet(key: str, title: str, rows: list[list[Shown]], headings: tuple[str, ...] = ("A", "B", "B − A")) -> Sheet:
    return Sheet(key, "", [Heading(""), *map(Heading, headings)], rows, title=title)


def _metrics(a: Record, b: Record, runs: Path) -> Sheet:
    """With intervals over the validation images, where both runs left their matches of the same images."""
    images = ImageParts(runs) if evaluated_on(a) == evaluated_on(b) else None
    rows = []
    for metric in METRICS:
        shown: list[Shown] = []
        for kind, iou in IOU_TYPES.items():
            mine, theirs = (record.metrics.get(iou, {}).get(metric) for record in (a, b))
            beside = _beside(metric, mine, theirs, 2)
            column = COLUMNS[f"{metric}_{kind}"]
            part = images.of([b.run_id], [a.run_id], column) if images else None
            if part is not None and mine is not None and theirs is not None:
                low, high = image_interval(theirs - mine, part, LEVEL)
                interval = f"[{number(low, 2, signed=True)}, {number(high, 2, signed=True)}]"
                beside[-1] = replace(beside[-1], interval=interval)
            shown += beside if not shown else beside[1:]
        rows.append(shown)
    sheet = _sheet("metrics", "Metrics, in percent", rows, BOTH_KINDS)
    return replace(sheet, note=IMAGES_NOTE if images else OTHER_IMAGES)


def _faults(a: Record, b: Record, runs: Path) -> list[Sheet]:
    """What AP50 would gain without a kind of fault, and calibration, of boxes and masks; none where neither run has
    left its matches."""
    measured = {
        (kind, record.run_id): (calibration(found), fault_gains(found) or {})
        for kind, iou in IOU_TYPES.items()
        for record in (a, b)
        if (found := read_half_matches(runs / record.run_id, iou)) is not None
    }
    if not measured:
        return []
    rows = []
    for name in (*KINDS, CALIBRATION):
        shown: list[Shown] = []
        for kind in IOU_TYPES:
            mine, theirs = (_fault_figure(measured.get((kind, record.run_id)), name) for record in (a, b))
            beside = _beside(name, mine, theirs, 2)
            shown += beside if not shown else beside[1:]
        rows.append(shown)
    old = any(not gains for _, gains in measured.values())
    sheet = _sheet("faults", "Faults and scores", rows, BOTH_KINDS)
    return [replace(sheet, note=FAULTS_NOTE + (OLD_NOTE if old else ""))]


def _fault_figure(measured: tuple[Calibration, dict[str, float]] | None, name: str) -> Figure:
    if measured is None:
        return None
    curve, gains = measured
    return 100 * curve.error if name == CALIBRATION else gains.get(name)


def _costs(a: Record, b: Record) -> Sheet:
    known = [key for key in COSTS if key in a.cost or key in b.cost]
    rows = [_beside(COSTS[key], a.cost.get(key), b.cost.get(key), 2 if "steps" in key else 0) for key in known]
    return _sheet("cost", "Cost", rows)


def _configuration(a: Record, b: Record) -> Sheet:
    """Every setting that differs, and the code where that does."""
    mine, theirs = ({**r.settings, "(code)": str(r.provenance.get("code", ""))[:10]} for r in (a, b))
    keys = [key for key in sorted({*mine, *theirs}) if canonical(mine.get(key)) != canonical(theirs.get(key))]
    rows = []
    for key in keys:
        values = [canonical(side.get(key)) for side in (mine, theirs)]
        rows.append([Shown(key, key), *(Shown(value, value, quiet=True) for value in values)])
    return _sheet("configuration", "Configuration: what differs", rows, ("A", "B"))


def _categories(runs: Path, a: Record, b: Record) -> pd.DataFrame | None:
    """By category_id: name, frequency, instances and images that hold them, and A's, B's and the difference of box and
    mask AP in percent."""
    import pandas as pd

    columns: dict[str, pd.Series] = {}
    for kind, iou in IOU_TYPES.items():
        mine, theirs = (category_ap(runs / run.run_id, iou) for run in (a, b))
        if mine is None or theirs is None:
            return None
        columns |= {name: mine[name] for name in ("name", "frequency", "instances", "images")}
        columns |= {f"{kind}_a": mine["AP"], f"{kind}_b": theirs["AP"], f"{kind}_difference": theirs["AP"] - mine["AP"]}
    return pd.DataFrame(columns)


def _most_changed(categories: pd.DataFrame) -> Sheet:
    largest = categories["box_difference"].abs().nlargest(MOST_CATEGORIES).index
    found = categories.loc[largest].sort_values("box_difference", ascending=False)
    rows = []
    for each in found.to_dict("records"):
        group = FREQUENCIES.get(each["frequency"], each["frequency"])
        beside = _beside(f"{each['name']} ({group})", each["box_a"], each["box_b"], 1)
        counts = [Shown(str(count), str(count), quiet=True) for count in (each["instances"], each["images"])]
        rows.append(beside + counts)
    headings = ("A", "B", "B − A", "instances", "images")
    sheet = _sheet("categories", "Categories whose box AP differs most", rows, headings)
    return replace(sheet, note="Categories with few instances in few images vary a lot by chance.")


def _picture(categories: pd.DataFrame, a: Record, b: Record) -> Picture:
    """Every category's differences, sorted within its frequency group."""
    canvas, axes = style.canvas(3.0, len(FREQUENCIES), sharey=True)
    for axis, (letter, word) in zip(axes, FREQUENCIES.items(), strict=True):
        group = categories[categories["frequency"] == letter]
        means = []
        for place, kind in enumerate(IOU_TYPES):
            values = np.sort(group[f"{kind}_difference"].dropna().to_numpy(float))[::-1]
            if len(values):
                share = (np.arange(len(values)) + 0.5) / len(values) * 100
                axis.plot(share, values, ".-", ms=4 if len(values) < 100 else 0, color=colour(place), label=kind)
                means.append(number(values.mean(), 1, signed=True))
        axis.axhline(0, color=MUTED, lw=0.9, zorder=0.5)
        axis.set_title(f"{word}\n{', '.join(means)}" if means else word)
        axis.set_xlim(0, 100)
    axes[0].set_ylabel("AP of B minus A")
    axes[1].set_xlabel("% of categories, from most gained to most lost")
    style.legend_above(canvas, axes)
    caption = (
        f"A: {a.run_id}; B: {b.run_id}. Above each panel the means of box and mask AP. From "
        "per_category.parquet beside both records."
    )
    return style.picture(canvas, "categories", "AP by category", caption)


def _markdown(a: Record, b: Record, sheets: list[Sheet], pictures: list[Picture]) -> str:
    parts = [f"# {a.run_id} (A) against {b.run_id} (B)"]
    for sheet in sheets:
        heading = "| " + " | ".join(heading.base for heading in sheet.headings) + " |"
        rule = "| :-- " + "| --: " * (len(sheet.headings) - 1) + "|"
        rows = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in sheet.rows]
        parts += [f"## {sheet.title}", "\n".join([heading, rule, *rows]) if rows else "None."]
        parts += [sheet.note] if sheet.note else []
    parts += [f"![{picture.title}]({picture.name}.svg)\n\n{picture.caption}" for picture in pictures]
    return "\n\n".join(parts) + "\n"


def _plain(cell: Shown) -> str:
    return escape_markdown(cell.text) + (f" {cell.interval}" if cell.interval else "")
