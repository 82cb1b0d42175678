"""What an evaluation leaves behind for those who ask more of it, so that no detection is matched again.

    matches.parquet       one row a detection and iou_type: image (int32, position among the evaluated images), category
                          (int32 index), score, matched and ignored (uint16, one bit an IoU threshold, 0.5 lowest, over
                          all areas); fault (uint8, of `FAULTS`) and truth (int32), null where they were not asked for;
                          per iou_type by category and falling score. The file's metadata name `iou_types`
    ground_truth.parquet  one row an image and category: image, category, instances (int32), frequency (r, c, f), by
                          image and category; the file's metadata give the numbers of `images` and `categories`

fault and truth are of an IoU of 0.5: truth is the instance that a detection found, or would have found but for its
class or place, -1 without; instances are numbered through in the order of ground_truth.parquet.

A true positive is matched and not ignored, a false positive neither. AP follows as in `harness.record.precision`, with
each detection and instance counted as often as its image was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.record.files import write_table

if TYPE_CHECKING:
    import pyarrow as pa

MATCHES, GROUND_TRUTH = "matches.parquet", "ground_truth.parquet"
DETECTION = {
    "image": "int32",
    "category": "int32",
    "score": "float64",
    "matched": "uint16",
    "ignored": "uint16",
    "fault": "uint8",
    "truth": "int32",
}
TRUTH = {"image": "int32", "category": "int32", "instances": "int32", "frequency": "string"}
FAULTS = ("", "class", "localisation", "both", "duplicate", "background")  # of false positives, "" for none
THRESHOLDS = 10  # of IoU: 0.5, 0.55, ... 0.95

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class RankedMatches:
    """What AP follows from, one IoU type.

    images: how many were evaluated. image (D,), starts (C + 1,): detections by category and falling score. hit, counted
    (10, D) bool by IoU threshold: true positives, and those that are not ignored. truth_image, truth_category,
    instances (G,): how many instances of a category an image holds, where it holds any. frequency (C,) r, c, f, empty
    for a category without ground truth.
    """

    images: int
    image: np.ndarray
    starts: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    truth_image: np.ndarray
    truth_category: np.ndarray
    instances: np.ndarray
    frequency: np.ndarray


def write_matches(
    folder: Path, detections: Mapping[str, Columns], truth: Columns, images: int, categories: int
) -> None:
    """Writes both files. detections: the columns of `DETECTION` by IoU type, in the file's order; truth: of `TRUTH`."""
    import pyarrow as pa

    tables = []
    for iou_type, columns in detections.items():
        known = next(iter(columns.values()))
        filled = {name: columns.get(name, pa.nulls(len(known), kind)) for name, kind in DETECTION.items()}
        table = pa.table(filled, pa.schema(list(DETECTION.items())))
        types = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), [iou_type])
        tables.append(table.add_column(0, "iou_type", types))
    found = pa.concat_tables(tables).replace_schema_metadata({"iou_types": ",".join(detections)})
    counts = {"images": str(images), "categories": str(categories)}
    write_table(found, folder / MATCHES)
    write_table(pa.table(dict(truth), pa.schema(list(TRUTH.items()), counts)), folder / GROUND_TRUTH)


@dataclass(frozen=True, eq=False)
class HalfMatches:
    """What was found at an IoU of 0.5, by whom and how surely, one IoU type.

    category (D,) int32, score (D,) float64 by category and falling score; hit, counted (D,) bool. fault (D,) uint8 of
    `FAULTS`, and truth (D,) int32; None where the evaluation left none. instance_category (N,) int32: each instance's.
    frequency (C,) r, c, f, empty for a category without ground truth.
    """

    category: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    fault: np.ndarray | None
    truth: np.ndarray | None
    instance_category: np.ndarray
    frequency: np.ndarray


def read_half_matches(folder: Path, iou_type: str) -> HalfMatches | None:
    """From a run's folder; None where it has left no matches of this IoU type."""
    tables = _read(folder, iou_type)
    if tables is None:
        return None
    found, truth = tables
    counted = (found["ignored"].to_numpy() & 1) == 0
    known = all(name in found.column_names and not found[name].null_count for name in ("fault", "truth"))
    return HalfMatches(
        category=found["category"].to_numpy(),
        score=found["score"].to_numpy(),
        hit=((found["matched"].to_numpy() & 1) != 0) & counted,
        counted=counted,
        fault=found["fault"].to_numpy() if known else None,
        truth=found["truth"].to_numpy() if known else None,
        instance_category=np.repeat(truth["category"].to_numpy(), truth["instances"].to_numpy()),
        frequency=_frequency(truth),
    )


def read_matches(folder: Path, iou_type: str) -> RankedMatches | None:
    """From a run's folder; None where it has left none of this IoU type."""
    tables = _read(folder, iou_type)
    if tables is None:
        return None
    found, truth = tables
    images, categories = (int(truth.schema.metadata[key]) for key in (b"images", b"categories"))
    category, matched, ignored = (found[name].to_numpy() for name in ("category", "matched", "ignored"))
    bits = (np.uint16(1) << np.arange(THRESHOLDS, dtype=np.uint16))[:, None]
    counted = (ignored & bits) == 0
    return RankedMatches(
        images=images,
        image=found["image"].to_numpy(),
        starts=np.searchsorted(category, np.arange(categories + 1)),
        hit=(matched & bits != 0) & counted,
        counted=counted,
        truth_image=truth["image"].to_numpy(),
        truth_category=truth["category"].to_numpy(),
        instances=truth["instances"].to_numpy(),
        frequency=_frequency(truth),
    )


def _read(folder: Path, iou_type: str) -> tuple[pa.Table, pa.Table] | None:
    """The rows of both files; None where there are none."""
    import pyarrow.parquet as pq

    if not all((folder / name).is_file() for name in (MATCHES, GROUND_TRUTH)):
        return None
    found = pq.read_table(folder / MATCHES, filters=[("iou_type", "=", iou_type)])
    return (found, pq.read_table(folder / GROUND_TRUTH)) if found.num_rows else None


def _frequency(truth: pa.Table) -> np.ndarray:
    """(C,) by category index."""
    frequency = np.full(int(truth.schema.metadata[b"categories"]), "", "U1")
    frequency[truth["category"].to_numpy()] = truth["frequency"].to_numpy(zero_copy_only=False).astype("U1")
    return frequency
