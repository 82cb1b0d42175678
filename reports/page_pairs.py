"""The part of the page where a reader sets two rows side by side: their categories, and what they find in pictures.

The page holds the figures as JSON, and its script draws the table, the scatter and the pictures for any two rows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.gallery import read_gallery, read_picture
from reports.collect import MOST_RUNS, Collection, TableRow
from reports.figure import category_ap
from reports.spec import IOU_TYPES, Spec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Judged:
    """An instance that a row's method judged: its picture as a data address, and what is known of it in words."""

    picture: str
    category: str
    figures: str
    good: bool | None


@dataclass(frozen=True)
class JudgedRow:
    """A row, with some instances that its method accepted and some that it rejected."""

    label: str
    accepted: list[Judged]
    rejected: list[Judged]


@dataclass(frozen=True)
class PairsPart:
    """rows: their labels; first: the place of the row shown as A. content: the JSON that the script reads. kind:
    box or mask, that AP is of."""

    rows: list[str]
    first: int
    content: str
    kind: str
    has_categories: bool
    has_images: bool


def pairs_part(spec: Spec, collection: Collection) -> PairsPart | None:
    """None if fewer than two rows have left anything of the kind."""
    if len(collection.frame) > MOST_RUNS:
        return None
    kind = spec.primary.superscript if spec.primary else "box"
    rows = collection.with_runs(collection.rows)
    ap = {row.key: found for row in rows if (found := _categories(collection, row, IOU_TYPES[kind])) is not None}
    galleries = {row.key: images for row in rows if (images := _images(collection, row))}
    shown = [row for row in rows if row.key in ap or row.key in galleries]
    if len(shown) < 2:
        return None
    pictures = {image["file"]: image for images in galleries.values() for image in images}
    content = {
        "categories": _facts(list(ap.values())),
        "rows": [
            {
                "label": spec.label_in_group(row.label, row.group),
                "ap": _values(ap.get(row.key), list(ap.values())),
                "found": {image["file"]: image["found"] for image in galleries.get(row.key, [])},
            }
            for row in shown
        ],
        "images": [
            {key: image[key] for key in ("file", "width", "height", "truth", "data")} for image in pictures.values()
        ],
    }
    labels = [spec.label_in_group(row.label, row.group) for row in shown]
    # "</" could end the page's script element early, and "<!--" could hide its end.
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    first = next((i for i, row in enumerate(shown[:-1]) if row.row.key in spec.baselines[:1]), 0)
    return PairsPart(labels, first, text, kind, bool(ap), bool(pictures))


def _categories(collection: Collection, row: TableRow, iou: str) -> pd.DataFrame | None:
    """By category_id: name, frequency, instances, images, and AP in percent, the mean over seeds."""
    import pandas as pd

    found = [
        collection.tolerant(category_ap)(collection.folder / run, iou) for run in collection.complete(row.key)["run_id"]
    ]
    known = [each for each in found if each is not None]
    return known[0].assign(AP=pd.concat([each["AP"] for each in known], axis=1).mean(axis=1)) if known else None


def _facts(tables: list[pd.DataFrame]) -> list[list[Any]]:
    """name, frequency, instances, images of each category."""
    if not tables:
        return []
    columns = [tables[0][name].tolist() for name in ("name", "frequency", "instances", "images")]
    return [list(each) for each in zip(*columns, strict=True)]


def _values(table: pd.DataFrame | None, tables: list[pd.DataFrame]) -> list[float | None]:
    """AP of each category of the first table, to a tenth of a tenth; None if undefined."""
    if table is None:
        return []
    values = table["AP"].reindex(tables[0].index)
    return [None if value != value else round(value, 2) for value in values.tolist()]


def _galleries(collection: Collection, row: TableRow) -> Iterator[dict[str, Any]]:
    for run in collection.complete(row.key)["run_id"]:
        found = collection.tolerant(gallery_with_pictures)(collection.folder / run)
        if found is not None:
            yield found


def gallery_with_pictures(folder: Path) -> dict[str, Any] | None:
    """A run's gallery, each picture as an address that holds it in `data`. Raises Damaged."""
    found = read_gallery(folder)
    if found is None:
        return None
    return {
        kind: [{**entry, "data": data_address(folder, entry["file"])} for entry in found[kind]]
        for kind in ("images", "instances")
    }


def _images(collection: Collection, row: TableRow) -> list[dict[str, Any]]:
    """Of the row's first seed that has any."""
    return next((found["images"] for found in _galleries(collection, row) if found["images"]), [])


def judged_rows(spec: Spec, collection: Collection) -> list[JudgedRow]:
    """Instances of each row's first seed that judged any."""
    shown = []
    for row in collection.with_runs(collection.rows) if len(collection.frame) <= MOST_RUNS else ():
        for found in _galleries(collection, row):
            if found["instances"]:
                ranked = sorted(found["instances"], key=lambda e: -(e["contribution"] or 0))
                sides = [[_judged(e) for e in ranked if e["accepted"] == side] for side in (True, False)]
                shown.append(JudgedRow(spec.label_in_group(row.label, row.group), *sides))
                break
    return shown


def _judged(entry: dict[str, Any]) -> Judged:
    known = {True: "clean", False: "bad", None: ""}[entry["clean"]]
    contribution = "" if entry["contribution"] is None else f"{entry['contribution']:+.3f}".replace("-", "−")
    figures = ", ".join(part for part in (contribution, known) if part)
    return Judged(entry["data"], entry["category"], figures, entry["clean"])


def data_address(folder: Path, name: str) -> str:
    """A picture of a run's gallery as an address that holds it. Raises Damaged."""
    kind = {"jpg": "jpeg", "png": "png"}[name.rpartition(".")[2]]
    return f"data:image/{kind};base64,{base64.b64encode(read_picture(folder, name)).decode()}"
