"""Pools of instances that can be pasted: rows of a store, by category, each with the source it is read from."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from harness.data.images import TrainingImages
from harness.data.lvis.annotations import Annotations
from harness.data.paste.cutout import Fault, FaultyInstance, annotated_cutout, read_rgba
from harness.data.pool.checked import CATEGORY, ISOLATED, MASK_PATH, PATH, check_pool
from harness.data.pool.packed import BYTES, OFFSET, SUFFIX, packed_index
from harness.data.pool.sources import AnnotationSource, FileSource, Span
from harness.errors import UserError, first_line
from methods.contract import Pool


class Store(Protocol):
    """Where a pool's rows come from. Picklable at the cost of a path, not of its contents."""

    @property
    def categories(self) -> np.ndarray:
        """(N,) int64, 0-based."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""

    def column(self, name: str) -> np.ndarray:
        """(N,) values. Raises KeyError."""

    def source(self, row: int) -> FileSource | AnnotationSource:
        """What row `row` is read from."""

    def open(self, row: int) -> np.ndarray:
        """(H, W, 4) uint8 RGBA. Raises FaultyInstance."""


class InstancePool:
    """A `methods.contract.Pool`: all rows of a store, or those in `rows`, in that order."""

    def __init__(self, store: Store, rows: np.ndarray | None = None) -> None:
        self.store = store
        self.rows = rows
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.categories)

    def __getstate__(self) -> dict[str, object]:
        return {"store": self.store, "rows": self.rows, "_columns": {}}

    @cached_property
    def categories(self) -> np.ndarray:
        everything = self.store.categories
        return everything if self.rows is None else everything[self.rows]

    @property
    def present_categories(self) -> np.ndarray:
        return self._grouped[0]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.store.columns

    def rows_of(self, category: int) -> np.ndarray:
        _, order, offsets = self._grouped
        if not 0 <= category < len(offsets) - 1:
            return order[:0]
        return order[offsets[category] : offsets[category + 1]]

    def column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            values = self.store.column(name)
            values = values if self.rows is None else values[self.rows]
            values.setflags(write=False)
            self._columns[name] = values
        return self._columns[name]

    def subset(self, rows: np.ndarray) -> InstancePool:
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            raise TypeError("subset takes row numbers, not a mask; np.flatnonzero makes them")
        chosen = chosen.astype(np.int64)
        return InstancePool(self.store, chosen if self.rows is None else self.rows[chosen])

    def source(self, row: int) -> FileSource | AnnotationSource:
        """What row `row` is read from."""
        return self.store.source(self._place(row))

    def open(self, row: int) -> np.ndarray:
        return self.store.open(self._place(row))

    def _place(self, row: int) -> int:
        """Where in the store a row lies."""
        return row if self.rows is None else int(self.rows[row])

    @cached_property
    def _grouped(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """The categories present, the rows ordered by category, and where each category begins among them."""
        categories = self.categories
        ascending = bool((categories[1:] >= categories[:-1]).all())
        order = np.arange(len(categories)) if ascending else np.argsort(categories, kind="stable")
        ordered = categories if ascending else categories[order]
        end = int(ordered[-1]) + 1 if len(ordered) else 0
        offsets = np.searchsorted(ordered, np.arange(end + 1))
        return np.flatnonzero(np.diff(offsets)), order, offsets.tolist()


class IndexStore:
    """A pool index: an Arrow IPC file of one uncompressed batch, memory-mapped, so that processes share its pages; by
    itself, or in a packed pool.

    Opening checks it; processes that receive it do not check again. Raises UserError for a damaged index.
    """

    def __init__(self, path: Path, checked: bool = False) -> None:
        self.path = Path(path)
        self._packed = self.path.suffix == SUFFIX
        try:
            reader = pa.ipc.open_file(packed_index(self.path) if self._packed else pa.memory_map(str(self.path)))
            if reader.num_record_batches != 1:
                raise ValueError(f"{reader.num_record_batches} batches, expected one")
            batch = reader.get_batch(0)
            metadata = batch.schema.metadata or {}
            # The folder that paths are relative to is kept relative to the index, so that both can be moved together.
            self.root = str((self.path.parent / metadata.get(b"root", b".").decode()).resolve())
            self.source_stamp = metadata.get(b"source", b"").decode()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(
                f"{self.path}: not a readable pool index ({first_line(error)}); delete it, or index the pool again"
            ) from None
        if not checked:
            check_pool(batch, self.path)
        self._batch = batch
        names = batch.schema.names
        self._paths = batch.column(PATH)
        self._masks = batch.column(MASK_PATH) if MASK_PATH in names else None
        self._isolated = batch.column(ISOLATED) if ISOLATED in names else None
        if self._packed:
            self.root = str(self.path.absolute())

    def __reduce__(self) -> tuple[type[IndexStore], tuple[Path, bool]]:
        return IndexStore, (self.path, True)

    def table(self) -> pa.Table:
        return pa.Table.from_batches([self._batch])

    @cached_property
    def categories(self) -> np.ndarray:
        return _numbers(self._batch.column(CATEGORY)).astype(np.int64, copy=False)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._batch.schema.names)

    def column(self, name: str) -> np.ndarray:
        """Text comes as an object array of str, "" where the index has no value."""
        values = self._batch.column(name)
        if (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)) and values.null_count == 0:
            return _numbers(values)
        if pa.types.is_primitive(values.type):
            plain: np.ndarray = values.to_numpy(zero_copy_only=False)
            return plain
        return np.array(["" if value is None else value for value in values.to_pylist()], object)

    def source(self, row: int) -> FileSource:
        mask = self._masks[row].as_py() if self._masks is not None else None
        return FileSource(
            os.path.join(self.root, self._paths[row].as_py()),
            None if mask is None else os.path.join(self.root, mask),
            self._isolated is not None and bool(self._isolated[row].as_py()),
            *((self.root, self._span(row, ""), self._span(row, "mask_")) if self._packed else ()),
        )

    def _span(self, row: int, prefix: str) -> Span | None:
        if f"{prefix}{OFFSET}" not in self.columns:
            return None
        offset, length = (self._batch.column(f"{prefix}{name}")[row].as_py() for name in (OFFSET, BYTES))
        return (offset, length) if isinstance(offset, int) and isinstance(length, int) else None

    def open(self, row: int) -> np.ndarray:
        return read_rgba(self.source(row))


def _numbers(values: pa.Array) -> np.ndarray:
    """The values of a column of numbers without nulls, in place; Arrow's own to_numpy imports pandas, for a second."""
    buffer = values.buffers()[1]
    dtype = np.dtype(values.type.to_pandas_dtype())
    return np.frombuffer(buffer, dtype, len(values), values.offset * dtype.itemsize)


class AnnotationStore:
    """The annotated instances of a training set; row i is annotation i."""

    columns = ("image", "annotation", "area_fraction")

    def __init__(self, annotations: Annotations, image_root: Path) -> None:
        self.annotations = annotations
        self.images = TrainingImages(annotations, image_root)

    def __reduce__(self) -> tuple[type[AnnotationStore], tuple[Annotations, Path]]:
        return AnnotationStore, (self.annotations, self.images.root)

    @cached_property
    def categories(self) -> np.ndarray:
        return self.annotations.annotation_categories.astype(np.int64)

    def column(self, name: str) -> np.ndarray:
        known = self.annotations
        if name == "image":
            return known.annotation_images.astype(np.int64)
        if name == "annotation":
            return np.arange(len(known.annotation_ids))
        if name == "area_fraction":
            image = known.annotation_images
            whole = known.heights[image].astype(np.float64) * known.widths[image]
            fractions: np.ndarray = known.areas / whole
            return fractions
        raise KeyError(name)

    def source(self, row: int) -> AnnotationSource:
        return AnnotationSource(int(self.annotations.annotation_images[row]), row)

    def open(self, row: int) -> np.ndarray:
        source = self.source(row)
        cutout = annotated_cutout(self.images, source)
        if cutout is None:
            raise FaultyInstance(Fault.empty_mask, f"an annotation of {self.images.path(source.image)}")
        return cutout.rgba


class ListStore:
    """A few files with their categories, held in memory."""

    columns = (PATH,)

    def __init__(self, sources: list[FileSource], categories: np.ndarray) -> None:
        self.sources = sources
        self.categories = categories

    def column(self, name: str) -> np.ndarray:
        if name != PATH:
            raise KeyError(name)
        return np.array([source.path for source in self.sources], object)

    def source(self, row: int) -> FileSource:
        return self.sources[row]

    def open(self, row: int) -> np.ndarray:
        return read_rgba(self.sources[row])


class JoinedStore:
    """The rows of one pool, then those of another."""

    def __init__(self, first: InstancePool, second: InstancePool) -> None:
        self.first = first
        self.second = second

    def __getstate__(self) -> dict[str, InstancePool]:
        return {"first": self.first, "second": self.second}

    @cached_property
    def categories(self) -> np.ndarray:
        return np.concatenate([self.first.categories, self.second.categories])

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.first.columns, *self.second.columns)))

    def column(self, name: str) -> np.ndarray:
        """A column that one pool lacks is filled with -1, NaN or "" for its rows. Raises KeyError."""
        known = [pool.column(name) if name in pool.columns else None for pool in (self.first, self.second)]
        sample = next((values for values in known if values is not None), None)
        if sample is None:
            raise KeyError(name)
        filler = {"i": -1, "u": -1, "f": np.nan, "b": False}.get(sample.dtype.kind, "")
        dtype = np.int64 if sample.dtype.kind == "u" else sample.dtype
        parts = [
            np.full(len(pool), filler, dtype) if values is None else values
            for pool, values in zip((self.first, self.second), known, strict=True)
        ]
        return np.concatenate(parts)

    def source(self, row: int) -> FileSource | AnnotationSource:
        first = len(self.first)
        return self.first.source(row) if row < first else self.second.source(row - first)

    def open(self, row: int) -> np.ndarray:
        first = len(self.first)
        return self.first.open(row) if row < first else self.second.open(row - first)


def training_pool(annotations: Annotations, image_root: Path) -> InstancePool:
    """The training set's own instances, without those marked `ignore`."""
    rows = np.flatnonzero(~annotations.ignore) if annotations.ignore.any() else None
    return InstancePool(AnnotationStore(annotations, image_root), rows)


def empty_pool() -> InstancePool:
    """A pool without rows, for methods that read none."""
    nothing: list[FileSource] = []
    return InstancePool(ListStore(nothing, np.zeros(0, np.int64)))


def joined(first: Pool, second: Pool) -> InstancePool:
    """The rows of one pool, then those of another. Raises TypeError unless the harness made both."""
    if not isinstance(first, InstancePool) or not isinstance(second, InstancePool):
        raise TypeError("join takes pools that the harness handed out, or subsets of them")
    return InstancePool(JoinedStore(first, second))
