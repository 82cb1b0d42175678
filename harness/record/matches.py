"""What an evaluation leaves behind for a bootstrap over images, in which no detection is matched again.

    matches.parquet       one row a detection and iou_type: image (int32, position among the evaluated images), category
                          (int32 index), score, matched and ignored (uint16, one bit an IoU threshold, 0.5 lowest, over
                          all areas); per iou_type by category and falling score. The file's metadata name `iou_types`
    ground_truth.parquet  one row an image and category: image, category, instances (int32), frequency (r, c, f); the
                          file's metadata give the numbers of `images` and `categories`

A true positive is matched and not ignored, a false positive neither. AP follows as in `harness.evaluate.precision`,
with each detection and instance counted as often as its image was drawn.
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
DETECTION = {"image": "int32", "category": "int32", "score": "float64", "matched": "uint16", "ignored": "uint16"}
TRUTH = {"image": "int32", "category": "int32", "instances": "int32", "frequency": "string"}
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
        table = pa.table(dict(columns), pa.schema(list(DETECTION.items())))
        types = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), [iou_type])
        tables.append(table.add_column(0, "iou_type", types))
    found = pa.concat_tables(tables).replace_schema_metadata({"iou_types": ",".join(detections)})
    counts = {"images": str(images), "categories": str(categories)}
    write_table(found, folder / MATCHES)
    write_table(pa.table(dict(truth), pa.schema(list(TRUTH.items()), counts)), folder / GROUND_TRUTH)


def _truth(path: Path) -> tuple[pa.Table, tuple[int, int]]:
    """The ground truth, and how many images and categories it is of. Raises Damaged."""
    table = read_typed(path, TRUTH)
    metadata = read_schema(path).metadata or {}
    try:
        images, categories = (int(metadata[key]) for key in (b"images", b"categories"))
    except (KeyError, ValueError) as error:
        raise Damaged(f"{path}: does not say of how many images and categories it is") from error
    for name, count in (("image", images), ("category", categories)):
        values = table[name].to_numpy()
        if not 0 < count <= 10**8 or (len(values) and (values.min() < 0 or values.max() >= count)):
            raise Damaged(f"{path}: column {name!r} does not fit its number of {count}")
    return table, (images, categories)


def read_matches(folder: Path, iou_type: str) -> RankedMatches | None:
    """From a run's folder; None where it has left none of this IoU type."""
    if not all((folder / name).is_file() for name in (MATCHES, GROUND_TRUTH)):
        return None
    truth, (images, categories) = _truth(folder / GROUND_TRUTH)
    found = read_typed(folder / MATCHES, DETECTION, [("iou_type", "=", iou_type)])
    if not found.num_rows:
        return None
    places = {"image": (found["image"].to_numpy(), images), "category": (found["category"].to_numpy(), categories)}
    for name, (values, count) in places.items():
        if values.min() < 0 or values.max() >= count:
            raise Damaged(f"{folder / MATCHES}: column {name!r} goes beyond the {count} of {GROUND_TRUTH}")
    category, matched, ignored = (found[name].to_numpy() for name in ("category", "matched", "ignored"))
    bits = (np.uint16(1) << np.arange(THRESHOLDS, dtype=np.uint16))[:, None]
    counted = (ignored & bits) == 0
    frequency = np.full(categories, "", "U1")
    frequency[truth["category"].to_numpy()] = truth["frequency"].to_numpy(zero_copy_only=False).astype("U1")
    return RankedMatches(
        images=images,
        image=found["image"].to_numpy(),
        starts=np.searchsorted(category, np.arange(categories + 1)),
        hit=(matched & bits != 0) & counted,
        counted=counted,
        truth_image=truth["image"].to_numpy(),
        truth_category=truth["category"].to_numpy(),
        instances=truth["instances"].to_numpy(),
        frequency=frequency,
    )
