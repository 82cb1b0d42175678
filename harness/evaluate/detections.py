"""Detections in columns: what an evaluation reads, from results files and from predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.lvis.numbers import as_numbers
from harness.data.lvis.rle import MOST_PIXELS, first_fault, list_fault, polygon_fault, size_fault
from harness.errors import UserError, first_line, shown
from harness.record.files import write_table
from harness.record.reading import Damaged, read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.data.lvis.annotations import Annotations, Rle


# Beyond it, float64 no longer represents every integer.
LARGEST_ID = 2**53


@dataclass(frozen=True, eq=False)
class Masks:
    """N run-length encoded masks: sizes (N, 2) int32 height and width; mask i's compressed counts are
    counts[offsets[i] : offsets[i + 1]], with offsets (N + 1,) int64."""

    sizes: np.ndarray
    offsets: np.ndarray
    counts: bytes

    @classmethod
    def build(cls, rles: Sequence[Rle]) -> Masks:
        """From COCO's compressed run-length encodings."""
        counts = [c.encode() if isinstance(c, str) else c for c in (rle["counts"] for rle in rles)]
        offsets = np.zeros(len(rles) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, counts), np.int64, len(counts)), out=offsets[1:])
        sizes = np.array([rle["size"] for rle in rles], np.int32).reshape(-1, 2)
        return cls(sizes, offsets, b"".join(counts))

    def rles(self, index: np.ndarray) -> list[Rle]:
        """The masks at `index` as COCO's compressed run-length encodings."""
        starts, ends = self.offsets[index].tolist(), self.offsets[index + 1].tolist()
        sizes = self.sizes[index].tolist()
        return [{"size": size, "counts": self.counts[a:b]} for size, a, b in zip(sizes, starts, ends, strict=True)]


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections, in the order in which equal scores are ranked.

    image_ids, category_ids (N,) int64 as in the annotation file; scores (N,) float64; boxes (N, 4) float64 x, y,
    width, height in pixels, None if only masks are known; masks None if only boxes are. source: their
    name in error messages.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    masks: Masks | None
    source: str = "detections"

    def __post_init__(self) -> None:
        mask_sizes = None if self.masks is None else self.masks.sizes
        columns = (self.image_ids, self.category_ids, self.scores, self.boxes, mask_sizes)
        lengths = [len(column) for column in columns if column is not None]
        if len(set(lengths)) > 1 or len(lengths) == 3:
            raise ValueError(f"expected columns of equal length, with boxes or masks, not {lengths}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def build(
        cls,
        image_ids: Any,
        category_ids: Any,
        scores: Any,
        boxes: Any | None = None,
        rles: Sequence[Rle] | None = None,
    ) -> Detections:
        """From sequences of equal length, converted to the columns' types. Raises ValueError for unequal lengths."""
        return cls(
            np.asarray(image_ids, np.int64).reshape(-1),
            np.asarray(category_ids, np.int64).reshape(-1),
            np.asarray(scores, np.float64).reshape(-1),
            None if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4),
            None if rles is None else Masks.build(rles),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """The parts one after another. Raises ValueError when some have boxes or masks and others lack them."""
        if not parts:
            return cls.build([], [], [], [], [])
        filled = [part for part in parts if len(part)] or list(parts[:1])
        if len({(part.boxes is None, part.masks is None) for part in filled}) > 1:
            raise ValueError("detections with and without boxes or masks cannot be concatenated")
        boxes = [part.boxes for part in filled if part.boxes is not None]
        masks = [part.masks for part in filled if part.masks is not None]
        return cls(
            np.concatenate([part.image_ids for part in filled]),
            np.concatenate([part.category_ids for part in filled]),
            np.concatenate([part.scores for part in filled]),
            np.concatenate(boxes) if boxes else None,
            _concatenate_masks(masks) if masks else None,
        )

    @classmethod
    def read(cls, path: Path, annotations: Annotations | None = None) -> Detections:
        """Reads COCO/LVIS results JSON, or Parquet as `write_parquet` writes it (by the name's ending).

        `annotations` give the image sizes that polygon masks need. Raises UserError naming the file and the entry.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path} does not exist; give detections as results JSON or Parquet")
        found = _read_parquet(path) if path.suffix == ".parquet" else _read_json(path, annotations)
        return replace(found, source=str(path))

    @classmethod
    def from_results(
        cls, results: Sequence[dict[str, Any]], annotations: Annotations | None = None, source: str = "detections"
    ) -> Detections:
        """From entries of the COCO/LVIS results format: image_id, category_id, score, bbox and/or segmentation.

        Raises UserError naming `source`, the entry's position and the field.
        """
        if not results:
            return cls.build([], [], [], [], [])
        has_boxes, has_masks = (any(key in entry for entry in results) for key in ("bbox", "segmentation"))
        image_ids, category_ids = (_numbers(results, key, source) for key in ("image_id", "category_id"))
        for key, ids in (("image_id", image_ids), ("category_id", category_ids)):
            for i in np.flatnonzero((ids != np.floor(ids)) | ~(np.abs(ids) < LARGEST_ID))[:1]:
                raise UserError(f"{source}: entry {i}: {key!r} is {ids[i]}, expected an integer")
        boxes = rles = None
        if has_boxes or not has_masks:
            boxes = _numbers(results, "bbox", source, width=4)
        if has_masks:
            segmentations = _column(results, "segmentation", source)
            rles = [_as_rle(v, i, int(image_ids[i]), annotations, source) for i, v in enumerate(segmentations)]
        found = cls.build(image_ids, category_ids, _numbers(results, "score", source), boxes, rles)
        if found.masks is not None:
            _check_masks(found.masks, source)
        return replace(found, source=source)

    def write_parquet(self, path: Path) -> None:
        """Columns image_id, category_id, score, bbox, mask_size, mask_counts, the last three where known."""
        import pyarrow as pa

        columns: dict[str, pa.Array] = {
            "image_id": pa.array(self.image_ids),
            "category_id": pa.array(self.category_ids),
            "score": pa.array(self.scores),
        }
        if self.boxes is not None:
            columns["bbox"] = pa.FixedSizeListArray.from_arrays(pa.array(self.boxes.ravel()), 4)
        if self.masks is not None:
            columns["mask_size"] = pa.FixedSizeListArray.from_arrays(pa.array(self.masks.sizes.ravel()), 2)
            offsets, counts = pa.py_buffer(self.masks.offsets), pa.py_buffer(self.masks.counts)
            columns["mask_counts"] = pa.Array.from_buffers(pa.large_binary(), len(self), [None, offsets, counts])
        write_table(pa.table(columns), path)


def _check_masks(masks: Masks, source: str) -> None:
    """Raises UserError naming the first mask that pycocotools would hang on or read beyond its end."""
    pixels = masks.sizes.astype(np.int64).prod(axis=1)
    for entry in np.flatnonzero((masks.sizes < 1).any(axis=1) | (pixels > MOST_PIXELS))[:1]:
        raise UserError(f"{source}: entry {entry} has a mask of {size_fault(*masks.sizes[entry])}")
    fault = first_fault(np.frombuffer(masks.counts, np.uint8), masks.offsets, pixels)
    if fault is not None:
        raise UserError(f"{source}: entry {fault[0]} has a mask of {fault[1]}; encode it again with pycocotools")


def _concatenate_masks(parts: Sequence[Masks]) -> Masks:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Masks(np.concatenate([p.sizes for p in parts]), offsets, b"".join(p.counts for p in parts))


def _read_json(path: Path, annotations: Annotations | None) -> Detections:
    import orjson

    try:
        results = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of {path.stat().st_size} bytes"
        raise UserError(f"{path}: invalid JSON at {where}: {error.msg}") from error
    if not isinstance(results, list):
        raise UserError(
            f"{path}: expected a list of results, each {{image_id, category_id, score, bbox, segmentation}}"
        )
    for i, entry in enumerate(results):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {i} is not an object")
    return Detections.from_results(results, annotations, str(path))


def _read_parquet(path: Path) -> Detections:
    import pyarrow as pa

    try:
        table = read_parquet(path)
    except Damaged as error:
        raise UserError(str(error)) from error
    columns = {"image_id": pa.int64(), "category_id": pa.int64(), "score": pa.float64()}
    known = set(table.column_names)
    for name in columns:
        if name not in known:
            raise UserError(f"{path}: has no column {name!r}")
    if not {"bbox", "mask_counts"} & known:
        raise UserError(f"{path}: has neither a column 'bbox' nor 'mask_counts'")
    if "bbox" in known:
        columns["bbox"] = pa.list_(pa.float64(), 4)
    if "mask_counts" in known:
        columns |= {"mask_size": pa.list_(pa.int32(), 2), "mask_counts": pa.large_binary()}
    typed = {name: _column_of(path, table, name, kind) for name, kind in columns.items()}
    boxes, sizes = (typed[name].flatten() if name in typed else None for name in ("bbox", "mask_size"))
    masks = None
    if sizes is not None:
        masks = _parquet_masks(typed["mask_counts"], sizes.to_numpy(zero_copy_only=False).reshape(-1, 2))
        _check_masks(masks, str(path))
    image_ids, category_ids, scores = (typed[name].to_numpy() for name in ("image_id", "category_id", "score"))
    return Detections(
        image_ids,
        category_ids,
        scores,
        None if boxes is None else boxes.to_numpy(zero_copy_only=False).reshape(-1, 4),
        masks,
    )


def _column_of(path: Path, table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    """A column in one piece, of this type. Raises UserError if it is missing, repeated, of another type or has gaps."""
    import pyarrow as pa

    if (count := table.column_names.count(name)) != 1:
        raise UserError(f"{path}: has {'no' if count == 0 else 'more than one'} column {name!r}")
    try:
        column = table[name].cast(kind)
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    except (ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: column {name!r} holds {table[name].type}, expected {kind} ({first_line(error)})"
        ) from error
    if array.null_count or (pa.types.is_nested(kind) and array.flatten().null_count):
        raise UserError(f"{path}: column {name!r} has empty cells")
    return array


def _parquet_masks(counts: pa.Array, sizes: np.ndarray) -> Masks:
    _, offsets, data = counts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[: len(counts) + 1] if offsets else np.zeros(1, np.int64)
    return Masks(sizes, bounds, data.to_pybytes() if data else b"")


def _column(results: Sequence[dict[str, Any]], key: str, source: str) -> list[Any]:
    try:
        return [entry[key] for entry in results]
    except KeyError:
        i = next(i for i, entry in enumerate(results) if key not in entry)
        raise UserError(f"{source}: entry {i} has no {key!r}") from None


def _numbers(results: Sequence[dict[str, Any]], key: str, source: str, width: int | None = None) -> np.ndarray:
    values = _column(results, key, source)
    numbers = as_numbers(values, width)
    if numbers is not None:
        return numbers.astype(np.float64)
    shape: tuple[int, ...] = () if width is None else (width,)
    wanted = "a number" if width is None else f"a list of {width} numbers"
    for i, value in enumerate(values):
        try:
            good = np.shape(value) == shape and np.array(value).dtype.kind in "iuf"
        except (ValueError, TypeError):
            good = False
        if not good:
            raise UserError(f"{source}: entry {i}: {key!r} is {shown(value)}, expected {wanted}")
    raise UserError(f"{source}: {key!r} of some entry is not {wanted}")


def _as_rle(value: Any, i: int, image_id: int, annotations: Annotations | None, source: str) -> Rle:
    """Compressed run lengths from any of COCO's segmentation forms; compressed ones are checked later, all at once."""

    def fault(message: str) -> UserError:
        return UserError(f"{source}: entry {i}: 'segmentation' {message}")

    if isinstance(value, dict) and isinstance(value.get("size"), (list, tuple)) and len(value["size"]) == 2:
        height, width = value["size"]
        if size := size_fault(height, width):
            raise fault(f"has a {size}")
        counts = value.get("counts")
        if isinstance(counts, bytes) or (isinstance(counts, str) and counts.isascii()):
            return value
        if not isinstance(counts, list):
            raise fault("has no run lengths")
        if wrong := list_fault(counts, height * width):
            raise fault(f"has {wrong}")
    elif isinstance(value, list):
        if annotations is None:
            raise UserError(
                f"{source}: entry {i}: polygons as 'segmentation' need the annotations, for the image's size"
            )
        images = np.flatnonzero(annotations.image_ids == image_id)
        if not len(images):
            raise UserError(f"{source}: entry {i} names image {image_id}, which the annotations do not have")
        if wrong := polygon_fault(value):
            raise fault(f"is {wrong}")
        height, width = int(annotations.heights[images[0]]), int(annotations.widths[images[0]])
    else:
        raise fault("is neither run lengths nor polygons")
    from pycocotools import mask as mask_utils

    try:
        made = mask_utils.frPyObjects(value, height, width)
        rle: Rle = mask_utils.merge(made) if isinstance(made, list) else made
        return rle
    except Exception as error:  # pycocotools raises bare Exception, and anything else, for malformed input
        raise fault(f"cannot be read ({shown(error)})") from error
