"""A fixed tenth of a training split: `data=lvis_tenth`, a middle tier between the embedded dataset and all of LVIS.

The package ships no list of images, because it may not ship LVIS's files; a rule derives the tenth from the user's own
file. Sort the images by a keyed hash of their ids. Go through the categories from the fewest images to the most, and
take the first images that hold each until a tenth of its images, at least one, are taken. Then take the first of all
images until a tenth of them are taken. So no category is lost, and each keeps its share of images and its frequency
group, which is that of the whole file. A taken image keeps all its annotations.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from harness.data.lvis.annotations import Annotations

SHARE = 0.1
KEY = b"lvis_tenth"


def tenth(annotations: Annotations) -> Annotations:
    """The tenth, in the file's order. `image_counts` are its own, `frequency` is the whole file's."""
    return _subset(annotations, chosen(annotations))


def chosen(annotations: Annotations) -> np.ndarray:
    """(I,) bool: the images of the tenth; a function of image ids and of which categories each image holds."""
    order = _hashed_order(annotations.image_ids)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    pairs = np.unique(np.stack([annotations.annotation_categories, annotations.annotation_images], 1), axis=0)
    category, image = pairs[np.lexsort((place[pairs[:, 1]], pairs[:, 0]))].T
    counts = np.bincount(category, minlength=len(annotations.category_ids))
    starts = np.concatenate([[0], np.cumsum(counts)])
    taken = np.zeros(len(order), bool)
    for rarest in np.lexsort((annotations.category_ids, counts)):
        own = image[starts[rarest] : starts[rarest + 1]]
        wanted = int(np.ceil(SHARE * len(own))) - int(taken[own].sum())
        taken[own[~taken[own]][: max(wanted, 0)]] = True
    missing = int(np.ceil(SHARE * len(order))) - int(taken.sum())
    taken[order[~taken[order]][: max(missing, 0)]] = True
    return taken


def _hashed_order(image_ids: np.ndarray) -> np.ndarray:
    """(I,) indices of images by the keyed hash of their ids, the same on every machine."""
    digests = [hashlib.blake2b(str(each).encode(), key=KEY, digest_size=8).digest() for each in image_ids.tolist()]
    return np.argsort(np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64), kind="stable")


def _subset(whole: Annotations, images: np.ndarray) -> Annotations:
    """The annotations of some images (I,) bool."""
    rows = images[whole.annotation_images]
    number = np.cumsum(images) - 1
    in_polygons, polygon_offsets = _lists(whole.polygon_offsets, rows)
    in_points, point_offsets = _lists(whole.point_offsets, in_polygons)
    in_counts, rle_offsets = _lists(whole.rle_offsets, rows)
    parts: dict[str, Any] = {
        "polygon_offsets": polygon_offsets,
        "point_offsets": point_offsets,
        "coordinates": whole.coordinates[in_points],
        "rle_offsets": rle_offsets,
        "rle_counts": whole.rle_counts[in_counts],
        "image_offsets": _lists(whole.image_offsets, images)[1],
    }
    for name in ("negative", "not_exhaustive"):
        inside, parts[f"{name}_offsets"] = _lists(getattr(whole, f"{name}_offsets"), images)
        parts[f"{name}_values"] = getattr(whole, f"{name}_values")[inside]
    for name in ("image_ids", "heights", "widths", "file_names"):
        parts[name] = getattr(whole, name)[images]
    for name in ("annotation_ids", "annotation_categories", "boxes", "areas", "ignore"):
        parts[name] = getattr(whole, name)[rows]
    parts["annotation_images"] = number[whole.annotation_images[rows]].astype(whole.annotation_images.dtype)
    held = np.unique(np.stack([parts["annotation_categories"], parts["annotation_images"]], 1), axis=0)[:, 0]
    parts["image_counts"] = np.bincount(held, minlength=len(whole.category_ids)).astype(whole.image_counts.dtype)
    return replace(whole, **parts, cache=None)


def _lists(offsets: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of lists with these offsets (N + 1,), where the values of the kept ones (N,) bool are, and their own offsets."""
    lengths = np.diff(offsets)
    return np.repeat(kept, lengths), np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
