"""Converts the published pool format to an index, and opens either.

Published (X-Paste, DiverGen): a JSON object `{"<0-based category>": ["image.png", "image.png|mask.png", "*cut.png"]}`.
`|` names the file of the mask, one per image that has several at the choice of who made the pool; `*` marks an RGBA
file that is cut to its instance already. Paths are absolute or relative to the JSON's folder. A pool may name
categories otherwise than by number where it says how (`harness.data.pool.numbering`). Beside NAME.json,
NAME.columns.csv or NAME.columns.parquet may hold further columns, one row an entry, keyed by `category` and `path`
(both as in the JSON).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from harness.data.fingerprint import fingerprint
from harness.data.pool.checked import CATEGORY, ISOLATED, MASK_PATH, PATH, check_pool
from harness.data.pool.numbering import Numbering, categories_of, instances_of
from harness.data.pool.packed import SUFFIX
from harness.data.pool.pool import IndexStore, InstancePool
from harness.errors import UserError, first_line, not_written
from harness.record.files import write_atomically
from harness.record.reading import Damaged, read_parquet

LAYOUT = 1  # part of a cached index's name: another layout never reads it
ENTRY = "entry"  # the published entry, while a table is made


def open_pool(path: Path, num_categories: int | None, cache: Path, numbering: Numbering | None = None) -> InstancePool:
    """Opens a pool: a published JSON, an index (.arrow), a packed pool (.zip), or a table in the exchange format
    (.parquet).

    An index of a JSON or Parquet file is made on first opening, in the folder `cache` under the file's fingerprint,
    without reading the images. Raises UserError for a file that is missing or malformed and for a category that is
    not below `num_categories`, where that is given.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such pool")
    index = path if path.suffix in (".arrow", SUFFIX) else _cached_index(path, cache, numbering)
    pool = InstancePool(IndexStore(index))
    check_categories(pool, num_categories, path)
    return pool


def read_pool(path: Path, numbering: Numbering | None = None) -> pa.Table:
    """The table of a pool in any of its formats, sorted by category; `root`, absolute, in its metadata is the folder
    that its paths are relative to. `numbering` resolves categories that a pool does not name by number.
    Raises UserError."""
    if path.suffix == ".json":
        return _read_published(path, numbering)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix == ".arrow":
        store = IndexStore(path)
        return store.table().replace_schema_metadata({"root": store.root})
    if path.suffix == SUFFIX:
        raise UserError(f"{path} is packed for training; give the pool that it was made from")
    raise UserError(f"{path}: expected a .json in the published format, a .parquet or an .arrow index")


def write_index(table: pa.Table, path: Path, source: Path | None = None) -> None:
    """Writes a table, `root` in its metadata, as an index that remembers the file it was made of, where one is given.

    Raises UserError when the disk does not take it.
    """
    root = (table.schema.metadata or {}).get(b"root", b"").decode()
    relative = os.path.relpath(root, path.parent.absolute())
    made_of = {"source": source_stamp(source)} if source is not None else {}
    table = table.replace_schema_metadata({"root": relative, "layout": str(LAYOUT), **made_of}).combine_chunks()
    batches = table.to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    try:
        with write_atomically(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_batch(batch)
    except OSError as error:
        raise not_written(path, error) from error


def sorted_by_category(table: pa.Table) -> pa.Table:
    """The same rows, categories ascending, otherwise in their order."""
    category = table.column(CATEGORY).to_numpy()
    if (category[1:] >= category[:-1]).all():
        return table
    return table.take(pa.array(np.argsort(category, kind="stable")))


def _cached_index(path: Path, cache: Path, numbering: Numbering | None) -> Path:
    key = fingerprint(path)[:16]
    columns = columns_file(path)
    if columns is not None:
        key += f"-{fingerprint(columns)[:8]}"
    # Relative paths mean another file elsewhere, so the folder is part of the name.
    folder = f"{zlib.crc32(str(path.parent.resolve()).encode()):08x}"
    if numbering is not None:
        key += f"-{numbering.stamp}"
    index = cache / f"pool-{path.stem}-{key}-{folder}-{LAYOUT}.arrow"
    if not index.is_file():
        write_index(read_pool(path, numbering), index)
    return index


def source_stamp(source: Path) -> str:
    """What an index that was made of a pool remembers of it: the contents of its file and of its columns'."""
    columns = columns_file(source)
    return fingerprint(source) + (f"-{fingerprint(columns)}" if columns else "")


def check_up_to_date(index: Path) -> None:
    """Raises UserError for an index that was made from another version of the pool's JSON that lies beside it.

    An index of an older version of this package does not remember what it was made of; there the files' times tell.
    """
    source = index.with_suffix(".json")
    if index.suffix != ".arrow" or not source.is_file():
        return
    known = IndexStore(index).source_stamp
    if known == source_stamp(source) if known else source.stat().st_mtime <= index.stat().st_mtime:
        return
    raise UserError(
        f"{index} was made from another version of {source.name}: "
        f"`harness data index-pool {source}` makes it again, or delete the one you do not want"
    )


def columns_file(path: Path) -> Path | None:
    """The further columns beside a pool's JSON, if any."""
    candidates = [path.with_name(f"{path.stem}.columns{suffix}") for suffix in (".parquet", ".csv")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def check_categories(pool: InstancePool, num_categories: int | None, path: Path) -> None:
    """Raises UserError for a category below 0 or not below `num_categories`."""
    lowest, highest = int(pool.categories.min(initial=0)), int(pool.categories.max(initial=-1))
    if lowest < 0:
        raise UserError(f"{path}: category {lowest}; categories are counted from 0")
    if num_categories is not None and highest >= num_categories:
        raise UserError(
            f"{path}: category {highest} is outside the {num_categories} categories; "
            f"data.num_classes={highest + 1} adds categories beyond the dataset's"
        )


# ------------------------------------------------------------------------------------------------- published format


def _read_published(path: Path, numbering: Numbering | None) -> pa.Table:
    categories, keys, entries = _entries(path, numbering)
    columns = _further_columns(path, keys, entries)
    marked = [entry.startswith("*") for entry in entries]
    parts = [entry.lstrip("*").split("|") for entry in entries]
    table = pa.table(
        {
            CATEGORY: pa.array(categories, pa.int64()),
            PATH: pa.array([part[0] for part in parts], pa.large_string()),
            MASK_PATH: pa.array([part[1] if len(part) > 1 else None for part in parts], pa.large_string()),
            ISOLATED: pa.array(marked, pa.bool_()),
            **columns,
        }
    )
    check_pool(table, path)
    root = _root_of(path.parent.resolve(), table.column(PATH)[:8].to_pylist())
    return sorted_by_category(table.replace_schema_metadata({"root": str(root)}))


def _entries(path: Path, numbering: Numbering | None) -> tuple[np.ndarray, list[str], list[str]]:
    """The category, the key and the text of every entry."""
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: invalid JSON at line {error.lineno}: {error.msg}; is the file cut off?") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    wanted = 'a pool is {"<0-based category>": ["image.png", ...], ...}'
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object; {wanted}")
    lengths, keys, entries = [], [], []
    numbers = categories_of(path, content, numbering)
    for key, paths in instances_of(path, content).items():
        if not isinstance(paths, list) or not all(isinstance(entry, str) and entry for entry in paths):
            raise UserError(f"{path}: category {key} holds something other than a list of file names; {wanted}")
        lengths.append(len(paths))
        keys += [key] * len(paths)
        entries += paths
    return np.repeat(np.array(list(numbers.values()), np.int64), lengths), keys, entries


def _root_of(folder: Path, sample: list[str]) -> Path:
    """What relative paths are relative to: the JSON's folder, else one above it or the working directory that fits.

    Published files name images from the folder that training was started in.
    """
    for candidate in (folder, *folder.parents, Path.cwd()):
        if sample and os.path.isfile(candidate / sample[0]):  # False, and no error, for what no file can be called
            return candidate
    return folder


def _further_columns(path: Path, keys: list[str], entries: list[str]) -> dict[str, pa.ChunkedArray]:
    """Columns beside the JSON, in the order of its entries."""
    file = columns_file(path)
    if file is None:
        return {}
    table = _read_columns(file)
    for name in ("category", "path"):
        if (count := table.column_names.count(name)) != 1:
            raise UserError(f"{file}: has {'no' if count == 0 else 'more than one'} column {name}")
    listed = zip(map(str, table.column("category").to_pylist()), table.column("path").to_pylist(), strict=True)
    place = {key: row for row, key in enumerate(listed)}
    try:
        rows = [place[key] for key in zip(keys, entries, strict=True)]
    except KeyError as error:
        category, entry = error.args[0]
        raise UserError(f"{file}: has no row for category {category}, path {entry}, which {path.name} lists") from None
    order = pa.array(rows, pa.int64())
    if taken := {CATEGORY, MASK_PATH, ISOLATED} & set(table.column_names):
        raise UserError(f"{file}: a column cannot be named {taken.pop()!r}, which {path.name} defines")
    return {name: table.column(name).take(order) for name in table.column_names if name not in ("category", "path")}


def _read_columns(file: Path) -> pa.Table:
    try:
        if file.suffix == ".csv":
            import pyarrow.csv as csv

            table = csv.read_csv(str(file))
            table.validate(full=True)
            _ = table.column_names  # decodes them
            return table
        return read_parquet(file)
    except Damaged as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)})") from error


def _read_parquet(path: Path) -> pa.Table:
    table = _read_columns(path)
    check_pool(table, path)
    metadata: dict[Any, Any] = table.schema.metadata or {}
    try:
        root = (path.parent / metadata.get(b"root", b".").decode()).resolve()
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: its root is not the name of a folder ({first_line(error)})") from error
    return sorted_by_category(table.replace_schema_metadata({"root": str(root)}))
