"""Reading and checking LVIS v1 JSON (lvisdataset.org); v0.5 files, which name images by `file_name`, are read too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.lvis.annotations import FREQUENCIES, Annotations
from harness.data.lvis.numbers import as_numbers
from harness.data.lvis.rle import FARTHEST, MOST_PIXELS, first_fault, list_fault, size_fault
from harness.data.lvis.stream import read_lists
from harness.errors import UserError, shown

SECTIONS = ("categories", "images", "annotations")
BLOCK = 2**16  # annotations that are put in order at a time
LONGEST_TEXT = 1024  # letters of a category's name or a file's


def read_json(path: Path) -> Annotations:
    """Reads and checks the JSON itself, without a cache, in a quarter of the memory that it would take as objects.

    Errors as for `load_annotations`.
    """
    reader = _Reader(path)
    for section, entries in read_lists(path, SECTIONS):
        reader.take(section, entries)
    return reader.annotations()


class _Reader:
    """Collects a file's entries as they are read; knows the path, which every error names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, list[Any]] = {"categories": [], "images": []}
        self.read = 0  # annotations
        self.columns = [self._annotation_columns([])]

    def take(self, section: str, entries: list[Any]) -> None:
        if section != "annotations":
            self.entries[section] += entries
            return
        self.columns.append(self._annotation_columns(entries))
        self.read += len(entries)

    def annotations(self) -> Annotations:
        if _is_coco(self.entries["categories"], self.entries["images"]):
            raise self._fail("holds COCO annotations, but only LVIS annotations are supported")
        categories = self._categories(self.entries["categories"])
        images = self._images(self.entries["images"], categories["category_ids"])
        columns = {name: np.concatenate([each.pop(name) for each in self.columns]) for name in list(self.columns[0])}
        annotations = self._annotations(columns, categories["category_ids"], images)
        if categories["image_counts"] is None:
            categories["image_counts"] = _images_per_category(annotations, len(categories["category_ids"]))
        return Annotations(**categories, **images, **annotations)

    def _fail(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}")

    def _column(self, entries: list[Any], key: str, what: str) -> list[Any]:
        try:
            return [entry[key] for entry in entries]
        except (KeyError, TypeError):
            for number, entry in enumerate(entries, self.read if what == "annotation" else 0):
                if not isinstance(entry, dict):
                    raise self._fail(f"{what} number {number} is not an object") from None
                if key not in entry:
                    name = f"{what} {shown(entry['id'])}" if "id" in entry else f"{what} number {number}"
                    raise self._fail(f"{name} has no {key!r}") from None
            raise

    def _numbers(self, entries: list[Any], key: str, what: str, dtype: type, width: int | None = None) -> np.ndarray:
        values = self._column(entries, key, what)
        numbers = as_numbers(values, width)
        if numbers is not None and (dtype is float or numbers.dtype.kind != "f" or not numbers.size):
            return numbers.astype(np.float64 if dtype is float else np.int64)
        wanted = f"a list of {width} numbers" if width else "a number" if dtype is float else "an integer"
        for entry, value in zip(entries, values, strict=True):
            parts = value if width is not None else [value]
            types = (int, float) if dtype is float else (int,)
            if not isinstance(parts, list) or len(parts) != (width or 1) or not all(type(p) in types for p in parts):
                raise self._fail(f"{what} {shown(entry.get('id'))}: {key!r} is {shown(value)}, expected {wanted}")
        raise self._fail(f"{key!r} of an entry of {what}s is not {wanted}")

    def _texts(self, texts: list[str]) -> np.ndarray:
        """(N,) str; each takes as much memory as the longest, hence the limit."""
        for text in texts:
            if len(text) > LONGEST_TEXT:
                raise self._fail(f"a text of {len(text)} characters ({shown(text)}); the limit is {LONGEST_TEXT}")
        return np.array(texts)

    def _ids(self, entries: list[Any], what: str) -> np.ndarray:
        return self._unique(self._numbers(entries, "id", what, int), what)

    def _unique(self, ids: np.ndarray, what: str) -> np.ndarray:
        unique, counts = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            raise self._fail(f"{what} id {unique[counts > 1][0]} appears {counts.max()} times")
        return ids

    def _categories(self, entries: list[Any]) -> dict[str, Any]:
        if not entries:
            raise self._fail("has no categories")
        order = np.argsort(self._ids(entries, "category"))
        entries = [entries[i] for i in order]
        frequency = self._column(entries, "frequency", "category")
        for entry, value in zip(entries, frequency, strict=True):
            if value not in FREQUENCIES:
                raise self._fail(f"category {entry['id']}: frequency is {shown(value)}, expected r, c or f")
        counted = all("image_count" in entry for entry in entries)
        return {
            "category_ids": self._numbers(entries, "id", "category", int),
            "category_names": self._texts([str(name) for name in self._column(entries, "name", "category")]),
            "category_synsets": self._texts([str(entry.get("synset", "")) for entry in entries]),
            "frequency": np.array(frequency),
            "image_counts": self._numbers(entries, "image_count", "category", int) if counted else None,
        }

    def _images(self, entries: list[Any], category_ids: np.ndarray) -> dict[str, Any]:
        if not entries:
            raise self._fail("has no images")
        order = np.argsort(self._ids(entries, "image"))
        entries = [entries[i] for i in order]
        heights, widths = (self._numbers(entries, key, "image", int) for key in ("height", "width"))
        absurd = (heights < 1) | (widths < 1) | (heights > MOST_PIXELS // np.maximum(widths, 1))
        for place in np.flatnonzero(absurd)[:1]:
            raise self._fail(f"image {entries[place]['id']}: {size_fault(heights[place], widths[place])}")
        columns = {
            "image_ids": self._numbers(entries, "id", "image", int),
            "heights": heights.astype(np.int32),
            "widths": widths.astype(np.int32),
            "file_names": self._texts([self._file_name(entry) for entry in entries]),
        }
        for name, key in (("negative", "neg_category_ids"), ("not_exhaustive", "not_exhaustive_category_ids")):
            lists = self._column(entries, key, "image")
            for entry, value in zip(entries, lists, strict=True):
                if not isinstance(value, list) or not all(type(each) is int and abs(each) < 2**62 for each in value):
                    raise self._fail(f"image {entry['id']}: {key!r} is {shown(value)}, expected a list of category ids")
            offsets = _offsets(map(len, lists), len(lists))
            values = np.fromiter(chain.from_iterable(lists), np.int64, offsets[-1])
            index, unknown = _lookup(category_ids, values)
            if unknown is not None:
                image = columns["image_ids"][np.searchsorted(offsets, unknown, side="right") - 1]
                raise self._fail(f"image {image}: {key!r} names category {values[unknown]}, which does not exist")
            columns |= {f"{name}_values": index.astype(np.int32), f"{name}_offsets": offsets}
        return columns

    def _file_name(self, image: dict[str, Any]) -> str:
        if "coco_url" in image:  # http://images.cocodataset.org/train2017/000000391895.jpg
            return "/".join(str(image["coco_url"]).split("/")[-2:])
        if "file_name" in image:
            return str(image["file_name"])
        raise self._fail(f"image {image['id']} has neither 'coco_url' nor 'file_name'")

    def _annotation_columns(self, entries: list[Any]) -> dict[str, np.ndarray]:
        return {
            "annotation_ids": self._numbers(entries, "id", "annotation", int),
            "images": self._numbers(entries, "image_id", "annotation", int),
            "categories": self._numbers(entries, "category_id", "annotation", int),
            "boxes": self._numbers(entries, "bbox", "annotation", float, width=4),
            "areas": self._numbers(entries, "area", "annotation", float),
            "ignore": np.array([bool(entry.get("ignore", 0)) for entry in entries], dtype=bool),
            **self._segmentations(entries),
        }

    def _segmentations(self, entries: list[Any]) -> dict[str, np.ndarray]:
        """polygons (A,): how many; points: how many numbers each polygon has, flat; coordinates: the numbers, flat;
        rle_sizes (A, 2), -1 without; rle_lengths (A,); rle_counts, flat."""
        polygons: list[Sequence[Sequence[float]]] = []
        rles: list[bytes] = []
        sizes = np.full((len(entries), 2), -1, np.int64)
        for number, entry in enumerate(entries):
            segmentation = entry.get("segmentation", [])
            is_rle = isinstance(segmentation, dict)
            if not is_rle and not (isinstance(segmentation, list) and all(isinstance(p, list) for p in segmentation)):
                raise self._fail(f"annotation {entry['id']}: the segmentation is neither polygons nor run lengths")
            polygons.append(() if is_rle else segmentation)
            rles.append(self._rle_counts(entry) if is_rle else b"")
            if is_rle:
                sizes[number] = segmentation["size"]
        counts = np.fromiter(map(len, polygons), np.int64, len(polygons))
        lengths = np.fromiter((len(p) for p in chain.from_iterable(polygons)), np.int64, counts.sum())
        for number in np.flatnonzero((lengths < 4) | (lengths % 2 == 1))[:1]:
            entry = entries[int(np.searchsorted(np.cumsum(counts), number, side="right"))]
            raise self._fail(f"annotation {entry['id']}: a polygon of {lengths[number]} numbers; expected x, y pairs")
        try:
            flat = np.fromiter(chain.from_iterable(chain.from_iterable(polygons)), np.float64, lengths.sum())
        except (TypeError, ValueError) as error:
            raise self._fail(f"a polygon holds something other than numbers ({error})") from error
        for place in np.flatnonzero(~(np.abs(flat) <= FARTHEST))[:1]:
            polygon = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
            entry = entries[int(np.searchsorted(np.cumsum(counts), polygon, side="right"))]
            raise self._fail(f"annotation {entry['id']}: a polygon has the coordinate {flat[place]}")
        self._check_rles(entries, rles, sizes)
        return {
            "polygons": counts,
            "points": lengths,
            "coordinates": flat,
            "rle_sizes": sizes,
            "rle_lengths": np.fromiter(map(len, rles), np.int64, len(rles)),
            "rle_counts": np.frombuffer(b"".join(rles), np.uint8),
        }

    def _rle_counts(self, entry: dict[str, Any]) -> bytes:
        from pycocotools import mask as mask_utils

        rle = entry["segmentation"]
        size = rle.get("size")
        whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
        if not whole or "counts" not in rle:
            raise self._fail(f"annotation {entry['id']}: the run-length mask has size {size}; expected size and counts")
        counts = rle["counts"]
        if fault := size_fault(*size) or (list_fault(counts, size[0] * size[1]) if isinstance(counts, list) else ""):
            raise self._fail(f"annotation {entry['id']}: the run-length mask has {fault}")
        if isinstance(counts, list):
            compressed: bytes = mask_utils.frPyObjects(rle, *size)["counts"]
            return compressed
        if not counts or not (isinstance(counts, str) and counts.isascii()):
            raise self._fail(f"annotation {entry['id']}: the run-length mask has no run lengths")
        return counts.encode()

    def _check_rles(self, entries: list[Any], rles: list[bytes], sizes: np.ndarray) -> None:
        masks = np.flatnonzero(sizes[:, 0] >= 0)
        offsets = _offsets(np.array([len(rles[mask]) for mask in masks], np.int64), len(masks))
        fault = first_fault(np.frombuffer(b"".join(rles), np.uint8), offsets, sizes[masks].prod(axis=1))
        if fault is not None:
            raise self._fail(f"annotation {entries[masks[fault[0]]]['id']}: the run-length mask has {fault[1]}")

    def _annotations(
        self, columns: dict[str, np.ndarray], category_ids: np.ndarray, images: dict[str, Any]
    ) -> dict[str, Any]:
        """Checks the annotations against the rest of the file, and groups them by image."""
        ids = self._unique(columns["annotation_ids"], "annotation")
        image, unknown = _lookup(images["image_ids"], columns["images"])
        if unknown is not None:
            raise self._fail(f"annotation {ids[unknown]}: image {columns['images'][unknown]} does not exist")
        category, unknown = _lookup(category_ids, columns["categories"])
        if unknown is not None:
            raise self._fail(f"annotation {ids[unknown]}: category {columns['categories'][unknown]} does not exist")
        sizes, wanted = columns["rle_sizes"], np.stack([images["heights"], images["widths"]], 1)[image]
        for number in np.flatnonzero((sizes[:, 0] >= 0) & (sizes != wanted).any(1))[:1]:
            found, size = sizes[number].tolist(), wanted[number].tolist()
            raise self._fail(f"annotation {ids[number]}: the run-length mask has size {found}, the image {size}")
        order = np.argsort(image, kind="stable")
        polygons = _offsets(columns["polygons"], len(order))
        points = _offsets(columns["points"], len(columns["points"]))
        return {
            "annotation_ids": ids[order],
            "annotation_images": image[order].astype(np.int32),
            "annotation_categories": category[order].astype(np.int32),
            "boxes": columns["boxes"][order],
            "areas": columns["areas"][order],
            "ignore": columns["ignore"][order],
            "image_offsets": _offsets(np.bincount(image, minlength=len(images["image_ids"])), len(images["image_ids"])),
            "polygon_offsets": _offsets(columns["polygons"][order], len(order)),
            "point_offsets": _offsets(_in_order(columns["points"], polygons, order), len(columns["points"])),
            "coordinates": _in_order(columns.pop("coordinates"), points[polygons], order),
            "rle_offsets": _offsets(columns["rle_lengths"][order], len(order)),
            "rle_counts": _in_order(columns["rle_counts"], _offsets(columns["rle_lengths"], len(order)), order),
        }


def _in_order(values: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The lists `values[offsets[i] : offsets[i + 1]]`, flat, in another order; a block at a time, to spare memory."""
    out = np.empty_like(values)
    end = 0
    for first in range(0, len(order), BLOCK):
        block = order[first : first + BLOCK]
        lengths = offsets[block + 1] - offsets[block]
        starts = np.cumsum(lengths) - lengths
        index = np.arange(lengths.sum()) + np.repeat(offsets[block] - starts, lengths)
        out[end : end + len(index)] = values[index]
        end += len(index)
    return out


def _lookup(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, int | None]:
    """The index of each value in the ascending `ids`, and the position of the first value that is not among them."""
    index = np.searchsorted(ids, values)
    unknown = np.flatnonzero(ids[np.minimum(index, len(ids) - 1)] != values)
    return index, int(unknown[0]) if len(unknown) else None


def _offsets(lengths: Any, count: int) -> np.ndarray:
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths if isinstance(lengths, np.ndarray) else np.fromiter(lengths, np.int64, count), out=offsets[1:])
    return offsets


def _images_per_category(annotations: dict[str, Any], categories: int) -> np.ndarray:
    images = annotations["annotation_images"].astype(np.int64)
    pairs = np.unique(images * categories + annotations["annotation_categories"])
    return np.bincount(pairs % categories, minlength=categories)


def _is_coco(categories: list[Any], images: list[Any]) -> bool:
    """Neither frequencies nor the lists of verified categories, but what COCO has."""
    first = categories[0] if categories and isinstance(categories[0], dict) else {}
    image = images[0] if images and isinstance(images[0], dict) else {}
    return "supercategory" in first and "frequency" not in first and "neg_category_ids" not in image
