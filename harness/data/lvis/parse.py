"""Reading and checking LVIS v1 JSON (lvisdataset.org); v0.5 files, which name images by `file_name`, are read too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.lvis.annotations import FREQUENCIES, Annotations
from harness.errors import UserError


def read_json(path: Path) -> Annotations:
    """Reads and checks the JSON itself, without a cache. Errors as for `load_annotations`."""
    import orjson

    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of {path.stat().st_size} bytes"
        raise UserError(f"{path}: no valid JSON at {where}: {error.msg}; a file cut off? Download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _Reader(path).read(data)


class _Reader:
    """One pass over a parsed file; holds the path, which every error names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, data: Any) -> Annotations:
        sections = {}
        for section in ("categories", "images", "annotations"):
            if not isinstance(data, dict) or not isinstance(data.get(section), list):
                raise UserError(f"{self.path}: has no list {section!r}; an LVIS annotation file is wanted")
            sections[section] = data[section]
        if _is_coco(sections["categories"], sections["images"]):
            raise self._fail("holds COCO annotations, and only LVIS's are read: all methods and figures are LVIS's")
        categories = self._categories(sections["categories"])
        images = self._images(sections["images"], categories["category_ids"])
        annotations = self._annotations(sections["annotations"], categories["category_ids"], images)
        if categories["image_counts"] is None:
            categories["image_counts"] = _images_per_category(annotations, len(categories["category_ids"]))
        return Annotations(**categories, **images, **annotations)

    def _fail(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}")

    def _column(self, entries: list, key: str, what: str) -> list:
        try:
            return [entry[key] for entry in entries]
        except (KeyError, TypeError):
            for number, entry in enumerate(entries):
                if not isinstance(entry, dict):
                    raise self._fail(f"{what} number {number} is no object") from None
                if key not in entry:
                    name = f"{what} {entry['id']}" if "id" in entry else f"{what} number {number}"
                    raise self._fail(f"{name} has no {key!r}") from None
            raise

    def _numbers(self, entries: list, key: str, what: str, dtype: type, width: int | None = None) -> np.ndarray:
        values = self._column(entries, key, what)
        shape: tuple[int, ...] = (len(values),) if width is None else (len(values), width)
        try:
            numbers = np.array(values)
            kinds = "iuf" if dtype is float else "iu"
            good = numbers.size == 0 or (numbers.shape == shape and numbers.dtype.kind in kinds)
        except (ValueError, TypeError):
            good = False
        if good:
            return numbers.reshape(shape).astype(np.float64 if dtype is float else np.int64)
        wanted = f"a list of {width} numbers" if width else "a number" if dtype is float else "an integer"
        for entry, value in zip(entries, values, strict=True):
            parts = value if width is not None else [value]
            types = (int, float) if dtype is float else (int,)
            if not isinstance(parts, list) or len(parts) != (width or 1) or not all(type(p) in types for p in parts):
                raise self._fail(f"{what} {entry.get('id')}: {key!r} is {value!r}, {wanted} is wanted")
        raise self._fail(f"{key!r} of an entry of {what}s is not {wanted}")

    def _ids(self, entries: list, what: str) -> np.ndarray:
        ids = self._numbers(entries, "id", what, int)
        unique, counts = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            raise self._fail(f"{what} id {unique[counts > 1][0]} appears {counts.max()} times")
        return ids

    def _categories(self, entries: list) -> dict[str, Any]:
        if not entries:
            raise self._fail("has no categories")
        order = np.argsort(self._ids(entries, "category"))
        entries = [entries[i] for i in order]
        frequency = self._column(entries, "frequency", "category")
        for entry, value in zip(entries, frequency, strict=True):
            if value not in FREQUENCIES:
                raise self._fail(f"category {entry['id']}: frequency is {value!r}, one of r, c, f is wanted")
        counted = all("image_count" in entry for entry in entries)
        return {
            "category_ids": self._numbers(entries, "id", "category", int),
            "category_names": np.array([str(name) for name in self._column(entries, "name", "category")]),
            "category_synsets": np.array([str(entry.get("synset", "")) for entry in entries]),
            "frequency": np.array(frequency),
            "image_counts": self._numbers(entries, "image_count", "category", int) if counted else None,
        }

    def _images(self, entries: list, category_ids: np.ndarray) -> dict[str, Any]:
        if not entries:
            raise self._fail("has no images")
        order = np.argsort(self._ids(entries, "image"))
        entries = [entries[i] for i in order]
        columns = {
            "image_ids": self._numbers(entries, "id", "image", int),
            "heights": self._numbers(entries, "height", "image", int).astype(np.int32),
            "widths": self._numbers(entries, "width", "image", int).astype(np.int32),
            "file_names": np.array([self._file_name(entry) for entry in entries]),
        }
        for name, key in (("negative", "neg_category_ids"), ("not_exhaustive", "not_exhaustive_category_ids")):
            lists = self._column(entries, key, "image")
            offsets = _offsets(map(len, lists), len(lists))
            values = np.fromiter(chain.from_iterable(lists), np.int64, offsets[-1])
            index, unknown = _lookup(category_ids, values)
            if unknown is not None:
                image = columns["image_ids"][np.searchsorted(offsets, unknown, side="right") - 1]
                raise self._fail(f"image {image}: {key!r} names category {values[unknown]}, which does not exist")
            columns |= {f"{name}_values": index.astype(np.int32), f"{name}_offsets": offsets}
        return columns

    def _file_name(self, image: dict) -> str:
        if "coco_url" in image:  # http://images.cocodataset.org/train2017/000000391895.jpg
            return "/".join(str(image["coco_url"]).split("/")[-2:])
        if "file_name" in image:
            return str(image["file_name"])
        raise self._fail(f"image {image['id']} has neither 'coco_url' nor 'file_name'")

    def _annotations(self, entries: list, category_ids: np.ndarray, images: dict[str, Any]) -> dict[str, Any]:
        self._ids(entries, "annotation")
        image_ids = self._numbers(entries, "image_id", "annotation", int)
        image_index, unknown = _lookup(images["image_ids"], image_ids)
        if unknown is not None:
            raise self._fail(f"annotation {entries[unknown]['id']}: image {image_ids[unknown]} does not exist")
        order = np.argsort(image_index, kind="stable")
        image_index = image_index[order]
        entries = [entries[i] for i in order]
        categories = self._numbers(entries, "category_id", "annotation", int)
        category_index, unknown = _lookup(category_ids, categories)
        if unknown is not None:
            raise self._fail(f"annotation {entries[unknown]['id']}: category {categories[unknown]} does not exist")
        counts = np.bincount(image_index, minlength=len(images["image_ids"]))
        return {
            "annotation_ids": self._numbers(entries, "id", "annotation", int),
            "annotation_images": image_index.astype(np.int32),
            "annotation_categories": category_index.astype(np.int32),
            "boxes": self._numbers(entries, "bbox", "annotation", float, width=4),
            "areas": self._numbers(entries, "area", "annotation", float),
            "ignore": np.array([bool(entry.get("ignore", 0)) for entry in entries], dtype=bool),
            "image_offsets": _offsets(counts, len(counts)),
            **self._segmentations(entries, images["heights"][image_index], images["widths"][image_index]),
        }

    def _segmentations(self, entries: list, heights: np.ndarray, widths: np.ndarray) -> dict[str, np.ndarray]:
        polygons: list[Sequence[Sequence[float]]] = []
        rles: list[bytes] = []
        for entry, height, width in zip(entries, heights, widths, strict=True):
            segmentation = entry.get("segmentation", [])
            is_rle = isinstance(segmentation, dict)
            if not is_rle and not (isinstance(segmentation, list) and all(isinstance(p, list) for p in segmentation)):
                raise self._fail(f"annotation {entry['id']}: the segmentation is neither polygons nor run lengths")
            polygons.append(() if is_rle else segmentation)
            rles.append(self._rle_counts(entry, int(height), int(width)) if is_rle else b"")
        polygon_offsets = _offsets(map(len, polygons), len(polygons))
        lengths = np.fromiter((len(p) for p in chain.from_iterable(polygons)), np.int64, polygon_offsets[-1])
        for number in np.flatnonzero((lengths < 4) | (lengths % 2 == 1))[:1]:
            entry = entries[int(np.searchsorted(polygon_offsets, number, side="right")) - 1]
            raise self._fail(f"annotation {entry['id']}: a polygon of {lengths[number]} numbers; x, y pairs are wanted")
        try:
            flat = np.fromiter(chain.from_iterable(chain.from_iterable(polygons)), np.float64, lengths.sum())
        except (TypeError, ValueError) as error:
            raise self._fail(f"a polygon holds something other than numbers ({error})") from error
        return {
            "polygon_offsets": polygon_offsets,
            "point_offsets": _offsets(lengths, len(lengths)),
            "coordinates": flat,
            "rle_offsets": _offsets(map(len, rles), len(rles)),
            "rle_counts": np.frombuffer(b"".join(rles), np.uint8),
        }

    def _rle_counts(self, entry: dict, height: int, width: int) -> bytes:
        from pycocotools import mask as mask_utils

        rle = entry["segmentation"]
        if list(rle.get("size", ())) != [height, width] or "counts" not in rle:
            raise self._fail(
                f"annotation {entry['id']}: the run-length mask has size {rle.get('size')}, the image {[height, width]}"
            )
        counts = rle["counts"]
        if isinstance(counts, list):
            return mask_utils.frPyObjects(rle, height, width)["counts"]
        return counts.encode() if isinstance(counts, str) else counts


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


def _is_coco(categories: list, images: list) -> bool:
    """Neither frequencies nor the lists of verified categories, but what COCO has."""
    first = categories[0] if categories and isinstance(categories[0], dict) else {}
    image = images[0] if images and isinstance(images[0], dict) else {}
    return "supercategory" in first and "frequency" not in first and "neg_category_ids" not in image
