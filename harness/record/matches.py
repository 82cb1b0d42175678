"""What an evaluation leaves behind for those who ask more of it, so that no detection is matched again.

    matches.parquet       one row a detection and iou_type: image (int32, position among the evaluated images), category
                          (int32 index), score, matched and ignored (uint16, one bit an IoU threshold, 0.5 lowest, over
                          all areas); fault (uint8, of `FAULTS`) and truth (int32), null where they were not asked for;
                          per iou_type by category and falling score. The file's metadata name `iou_types`
    ground_truth.parquet  one row per image and category: image, category, instances (int32), frequency (r, c, f), by
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
from harness.record.reading import Damaged, read_schema, read_typed

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
MOST = {b"images": 10**8, b"categories": 10**6}
MOST_INSTANCES = 10**8

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
    `FAULTS`, and truth (D,) int32; None if the evaluation left none. instance_category (N,) int32: each instance's.
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
    """From a run's folder; None if it has left no matches of this IoU type. Raises Damaged."""
    tables = _read(folder, iou_type)
    if tables is None:
        return None
    found, truth, counts = tables
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
        frequency=_frequency(truth, counts[1]),
    )


def read_matches(folder: Path, iou_type: str) -> RankedMatches | None:
    """From a run's folder; None if it has left none of this IoU type. Raises Damaged."""
    tables = _read(folder, iou_type)
    if tables is None:
        return None
    found, truth, (images, categories) = tables
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
        frequency=_frequency(truth, categories),
    )


def _read(folder: Path, iou_type: str) -> tuple[pa.Table, pa.Table, tuple[int, int]] | None:
    """The rows of both files, and how many images and categories there are; None if there are no rows."""
    paths = [folder / name for name in (MATCHES, GROUND_TRUTH)]
    if not all(path.is_file() for path in paths):
        return None
    known = {name: kind for name, kind in DETECTION.items() if name in read_schema(paths[0]).names}
    if missing := sorted(DETECTION.keys() - known.keys() - {"fault", "truth"}):
        raise Damaged(f"{paths[0]} has no column {missing[0]!r}; delete it")
    found = read_typed(paths[0], known, [("iou_type", "=", iou_type)], gaps=("fault", "truth"))
    truth = read_typed(paths[1], TRUTH)
    metadata = read_schema(paths[1]).metadata or {}
    images, categories = (_count(paths[1], metadata, key) for key in MOST)
    _check_truth(paths[1], truth, images, categories)
    _check_found(paths[0], found, images, categories, int(truth["instances"].to_numpy().sum(dtype=np.int64)))
    return (found, truth, (images, categories)) if found.num_rows else None


def _count(path: Path, metadata: Mapping[bytes, bytes], key: bytes) -> int:
    text = metadata.get(key, b"")
    if not (text.isdigit() and len(text) < 12 and int(text) <= MOST[key]):
        raise Damaged(f"{path} says nothing sensible of its {key.decode()} ({text[:20]!r}); delete it")
    return int(text)


def _check_truth(path: Path, truth: pa.Table, images: int, categories: int) -> None:
    _check_range(path, truth, "image", 0, images)
    _check_range(path, truth, "category", 0, categories)
    _check_range(path, truth, "instances", 0, MOST_INSTANCES)
    if truth["instances"].to_numpy().sum(dtype=np.int64) > MOST_INSTANCES:
        raise Damaged(f"{path} says that there are more than {MOST_INSTANCES} instances; delete it")
    if strange := set(truth["frequency"].unique().to_pylist()) - set("rcf"):
        raise Damaged(f"{path}: frequency {str(strange.pop())[:20]!r}, expected r, c or f; delete it")


def _check_found(path: Path, found: pa.Table, images: int, categories: int, instances: int) -> None:
    _check_range(path, found, "image", 0, images)
    _check_range(path, found, "category", 0, categories)
    if not np.isfinite(found["score"].to_numpy()).all():
        raise Damaged(f"{path}: a score is not a number; delete it")
    if (np.diff(found["category"].to_numpy()) < 0).any():
        raise Damaged(f"{path}: its rows are not in the order of their categories; delete it")
    for name, low, high in (("fault", 0, len(FAULTS)), ("truth", -1, instances)):
        if name in found.column_names:
            _check_range(path, found, name, low, high)


def _check_range(path: Path, table: pa.Table, name: str, low: int, high: int) -> None:
    values = table[name].drop_null().to_numpy()
    if len(values) and not (low <= values.min() and values.max() < high):
        raise Damaged(
            f"{path}: column {name!r} reaches from {values.min()} to {values.max()}, where {low} to {high - 1} are "
            "possible; delete it"
        )


def _frequency(truth: pa.Table, categories: int) -> np.ndarray:
    """(C,) by category index."""
    frequency = np.full(categories, "", "U1")
    frequency[truth["category"].to_numpy()] = truth["frequency"].to_numpy(zero_copy_only=False).astype("U1")
    return frequency
