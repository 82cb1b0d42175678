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
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.evaluate.matching import IouType, Matches


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
