"""AP under resampling of the images, from what an evaluation left behind: no detection is matched again.

    matches.parquet       one row a detection and iou_type: image (int32, position among the evaluated images), category
                          (int32 index), score, matched and ignored (uint16, one bit an IoU threshold, 0.5 lowest, over
                          all areas); per iou_type by category and falling score
    ground_truth.parquet  one row an image and category: image, category, instances (int32), frequency (r, c, f); the
                          file's metadata give the numbers of `images` and `categories`

The parent folder's other files are not read, and of the harness only `average_precision` is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.evaluate.precision import average_precision
from harness.record import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.evaluate.matching import IouType, Matches

FIGURES = ("AP", "APr", "APc", "APf")
THRESHOLDS = 10


@dataclass(frozen=True, eq=False)
class Resampling:
    """One evaluation and IoU type, ready for resampling.

    images: how many were evaluated. image (D,) positions, starts (C + 1,) of each category's rows, hit and counted
    (10, D) bool by IoU threshold; truth_image, truth_category, instances (G,); frequency (C,) r, c, f, empty where a
    category has no instance.
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


def read_resampling(folder: Path, iou_type: str) -> Resampling:
    """Reads a run's matches.parquet and ground_truth.parquet.

    Raises FileNotFoundError when they are absent, and ValueError when they hold nothing of this IoU type.
    """
    import pyarrow.parquet as pq

    truth = pq.read_table(folder / "ground_truth.parquet")
    found = pq.read_table(folder / "matches.parquet", filters=[("iou_type", "=", iou_type)])
    metadata = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
    if iou_type not in metadata.get("iou_types", "").split(","):
        raise ValueError(f"{folder / 'matches.parquet'} holds no matches of {iou_type!r}")
    sizes = {
        key.decode(): int(value) for key, value in truth.schema.metadata.items() if key in (b"images", b"categories")
    }
    image, category, matched, ignored = (found[n].to_numpy() for n in ("image", "category", "matched", "ignored"))
    bits = (np.uint16(1) << np.arange(THRESHOLDS, dtype=np.uint16))[:, None]
    counted = (ignored & bits) == 0
    hit = (matched & bits != 0) & counted
    keep = _up_to_last_hit(hit.any(0), category) & counted.any(0)
    truth_category = truth["category"].to_numpy()
    frequency = np.full(sizes["categories"], "")
    frequency = frequency.astype("U1")
    frequency[truth_category] = truth["frequency"].to_numpy(zero_copy_only=False).astype("U1")
    return Resampling(
        images=sizes["images"],
        image=image[keep],
        starts=np.searchsorted(category[keep], np.arange(sizes["categories"] + 1)),
        hit=hit[:, keep],
        counted=counted[:, keep],
        truth_image=truth["image"].to_numpy(),
        truth_category=truth_category,
        instances=truth["instances"].to_numpy(),
        frequency=frequency,
    )


def image_weights(images: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples, images) int64: how often each image appears in resamples with replacement.

    The same weights for two runs evaluated on the same images make a paired comparison.
    """
    return rng.multinomial(images, np.full(images, 1 / images), size=samples)


def bootstrap_ap(resampling: Resampling, weights: np.ndarray) -> np.ndarray:
    """AP, APr, APc, APf as fractions for each row of weights (S, images): (S, 4) float64, NaN where undefined.

    A weight of one everywhere gives the evaluation's own figures.
    """
    groups = [np.ones(len(resampling.frequency), bool), *(resampling.frequency == group for group in "rcf")]
    figures = np.full((len(weights), len(FIGURES)), np.nan)
    for sample, weight in enumerate(weights):
        instances = np.bincount(
            resampling.truth_category,
            weights=weight[resampling.truth_image] * resampling.instances,
            minlength=len(resampling.frequency),
        )
        times = weight[resampling.image]
        ap = np.mean(
            [
                average_precision(hit, counted, resampling.starts, instances, times)[0]
                for hit, counted in zip(resampling.hit, resampling.counted, strict=True)
            ],
            axis=0,
        )
        for column, group in enumerate(groups):
            defined = ap[group & ~np.isnan(ap)]
            figures[sample, column] = defined.mean() if defined.size else np.nan
    return figures


def matches_table(matches: Mapping[IouType, Matches]) -> pa.Table:
    """The contents of matches.parquet."""
    import pyarrow as pa

    tables = []
    for iou_type, found in matches.items():
        order = found.ranked()
        columns = {
            "iou_type": pa.array([iou_type]).dictionary_encode().take(pa.array(np.zeros(len(order), np.int32))),
            "image": np.searchsorted(found.images, found.image[order]).astype(np.int32),
            "category": found.category[order],
            "score": found.score[order],
            "matched": found.matched[order, 0],
            "ignored": found.ignored[order, 0],
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="default").replace_schema_metadata({"iou_types": ",".join(matches)})


def ground_truth_table(matches: Matches, frequency: np.ndarray) -> pa.Table:
    """The contents of ground_truth.parquet; `frequency` (C,) r, c, f."""
    import pyarrow as pa

    present = ~matches.truth_ignored[:, 0]
    image = np.searchsorted(matches.images, matches.truth_image[present])
    keys, instances = np.unique(image * len(frequency) + matches.truth_category[present], return_counts=True)
    category = keys % len(frequency)
    columns = {
        "image": (keys // len(frequency)).astype(np.int32),
        "category": category.astype(np.int32),
        "instances": instances.astype(np.int32),
        "frequency": frequency[category],
    }
    metadata = {"images": str(len(matches.images)), "categories": str(len(frequency))}
    return pa.table(columns).replace_schema_metadata(metadata)


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet by rename."""
    import pyarrow.parquet as pq

    with write_atomically(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _up_to_last_hit(hit: np.ndarray, category: np.ndarray) -> np.ndarray:
    """(D,) bool: rows that a hit of their category equals or follows; the others can change no precision."""
    last = np.full(int(category.max(initial=-1)) + 1, -1)
    rows = np.flatnonzero(hit)
    np.maximum.at(last, category[rows], rows)
    return np.arange(len(hit)) <= last[category]
