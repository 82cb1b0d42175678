"""LVIS annotations as NumPy arrays, and the masks they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError

FREQUENCIES = ("r", "c", "f")

Rle = dict[str, Any]
"""COCO's compressed run-length encoding: {"size": [height, width], "counts": bytes}."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file of I images, C categories and A annotations.

    Images and categories are in the order of their ids; everywhere else their 0-based index names them;
    annotations are grouped by image and in the file's order within one. Lists of lists are flat values with offsets:
    list i is `values[offsets[i] : offsets[i + 1]]`. Arrays read from a cache are memory-mapped and read-only, and
    pickling hands on the cache's path, so that loader workers share one copy.
    """

    category_ids: np.ndarray  # (C,) int64, as in the file (1-based in LVIS)
    category_names: np.ndarray  # (C,) str
    category_synsets: np.ndarray  # (C,) str, teapot.n.01; "" where the file has none
    frequency: np.ndarray  # (C,) str: r, c or f, by the number of training images
    image_counts: np.ndarray  # (C,) int64
    image_ids: np.ndarray  # (I,) int64
    heights: np.ndarray  # (I,) int32
    widths: np.ndarray  # (I,) int32
    file_names: np.ndarray  # (I,) str, relative to the image root: train2017/000000391895.jpg
    negative_values: np.ndarray  # int32 categories verified as absent, per image
    negative_offsets: np.ndarray  # (I + 1,) int64
    not_exhaustive_values: np.ndarray  # int32 categories of which not every instance is annotated, per image
    not_exhaustive_offsets: np.ndarray  # (I + 1,) int64
    annotation_ids: np.ndarray  # (A,) int64
    annotation_images: np.ndarray  # (A,) int32 image index
    annotation_categories: np.ndarray  # (A,) int32 category index
    boxes: np.ndarray  # (A, 4) float64 x, y, width, height in pixels
    areas: np.ndarray  # (A,) float64 square pixels, as in the file
    ignore: np.ndarray  # (A,) bool, the file's optional `ignore`
    image_offsets: np.ndarray  # (I + 1,) int64 into the annotations
    polygon_offsets: np.ndarray  # (A + 1,) int64 into the polygons
    point_offsets: np.ndarray  # (polygons + 1,) int64 into the coordinates
    coordinates: np.ndarray  # float64 x, y, x, y ... in pixels
    rle_offsets: np.ndarray  # (A + 1,) int64 into rle_counts; empty if the segmentation is polygons
    rle_counts: np.ndarray  # uint8, compressed run lengths
    cache: Path | None = None  # the folder that the arrays are mapped from

    def annotations_of(self, image_index: int) -> slice:
        """The annotations of an image, as a slice of the annotation arrays."""
        return slice(int(self.image_offsets[image_index]), int(self.image_offsets[image_index + 1]))

    def negatives_of(self, image_index: int) -> np.ndarray:
        """Category indices verified as absent from an image."""
        offsets = self.negative_offsets
        return self.negative_values[offsets[image_index] : offsets[image_index + 1]]

    def not_exhaustive_of(self, image_index: int) -> np.ndarray:
        """Category indices of which an image may hold unannotated instances."""
        offsets = self.not_exhaustive_offsets
        return self.not_exhaustive_values[offsets[image_index] : offsets[image_index + 1]]

    @classmethod
    def array_names(cls) -> tuple[str, ...]:
        """The names of the arrays, which are those of their files in a cache."""
        return tuple(item.name for item in fields(cls) if item.name != "cache")

    @classmethod
    def mapped(cls, folder: Path) -> Annotations:
        """Maps the arrays of a folder, NAME.npy each, read-only. Raises UserError when one is missing or damaged."""
        try:
            # np.asarray drops the memmap subclass, whose slicing is slower; the mapping stays alive as the base.
            arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in cls.array_names()}
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder}: damaged annotation cache ({error}); delete the folder") from error
        return cls(**arrays, cache=folder)

    def __reduce__(self) -> tuple[Callable[..., Annotations], tuple[Any, ...]]:
        if self.cache is not None:
            return Annotations.mapped, (self.cache,)
        return Annotations, tuple(getattr(self, item.name) for item in fields(self))


def segmentation_rle(annotations: Annotations, index: int) -> Rle:
    """The mask of annotation `index` as a run-length encoding, equal to that of the `lvis` package's `ann_to_rle`.

    Raises UserError when the annotation has no segmentation.
    """
    from pycocotools import mask as mask_utils

    image = annotations.annotation_images[index]
    height, width = int(annotations.heights[image]), int(annotations.widths[image])
    first, last = annotations.rle_offsets[index : index + 2]
    if last > first:
        return {"size": [height, width], "counts": annotations.rle_counts[first:last].tobytes()}
    first, last = annotations.polygon_offsets[index : index + 2]
    if last == first:
        raise UserError(f"annotation {annotations.annotation_ids[index]} has no segmentation")
    bounds = annotations.point_offsets[first : last + 1].tolist()
    coordinates = annotations.coordinates
    polygons = [coordinates[a:b] for a, b in pairwise(bounds)]
    joined: dict[str, Any] = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
    return joined


def rasterise(annotations: Annotations, index: int) -> np.ndarray:
    """(H, W) bool: the mask of annotation `index` over its whole image."""
    from pycocotools import mask as mask_utils

    mask: np.ndarray = mask_utils.decode(segmentation_rle(annotations, index)).astype(bool)
    return mask


def rasterise_crop(annotations: Annotations, index: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask of annotation `index` cut to its own extent: (h, w) bool, and the crop's corner (x, y) in the image.

    A mask without a pixel gives a (0, 0) crop.
    """
    from pycocotools import mask as mask_utils

    rle = segmentation_rle(annotations, index)
    x, y, width, height = (int(v) for v in mask_utils.toBbox(rle))
    return mask_utils.decode(rle)[y : y + height, x : x + width].astype(bool), (x, y)
