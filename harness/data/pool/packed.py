"""A pool in one file, for file systems that are slow with small files: a ZIP of its images, uncompressed, and an index.

The index is the last entry, `pool.arrow`; the archive's comment says where it lies. Opening maps it into memory and
reads nothing else: no list of a million entries, in no process. Columns say where each image's bytes are.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zipfile
from functools import cache
from pathlib import Path

import pyarrow as pa

from harness.data.pool.sources import Span
from harness.errors import UserError, not_written
from harness.record.files import write_atomically

SUFFIX = ".zip"
INDEX = "pool.arrow"
ALIGNMENT = 64  # bytes, for columns that are read in place
PADDING = 0xD935  # the extra field that zipalign pads by
OFFSET, BYTES, CRC = "offset", "bytes", "crc"  # and the same of the mask's file: mask_offset, ...
_COMMENT = re.compile(rb"bsgal-bench pool (\d+) (\d+)\Z")


def packed_index(path: Path) -> pa.Buffer:
    """The index of a packed pool, in place. Raises UserError for another archive."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 80, 0))
        found = _COMMENT.search(file.read())
    if found is None:
        raise UserError(f"{path}: not a pool packed by `harness data pack-pool`, or truncated")
    offset, length = map(int, found.groups())
    return pa.memory_map(str(path)).read_buffer().slice(offset, length)


def packed_fingerprint(path: Path) -> str:
    """The SHA-256 of the index, which holds every image's checksum."""
    return hashlib.sha256(packed_index(path)).hexdigest()


def read_span(archive: str, span: Span) -> bytes:
    """The bytes of a file in an archive, as many of them as it has. Any process may call it, forked ones too: they
    share no position."""
    handle = _opened(archive)
    begin, length = span
    return os.pread(handle, max(0, min(length, os.fstat(handle).st_size - begin)), begin) if begin >= 0 else b""


@cache
def _opened(archive: str) -> int:
    return os.open(archive, os.O_RDONLY)


def pack(table: pa.Table, files: dict[str, list[str | None]], out: Path) -> int:
    """Writes a pool's table and its files: `files` are absolute paths by column, "" for the image and "mask_" for its
    mask. Returns how many do not exist; their instances stay in the index and are skipped, as in a folder.

    Raises UserError if the disk does not take it.
    """
    every = sorted({path for column in files.values() for path in column if path is not None})
    home = os.path.commonpath([os.path.dirname(path) for path in every]) if every else ""
    try:
        with write_atomically(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            placed = {path: _add(archive, path, os.path.relpath(path, home)) for path in every}
            for prefix, column in files.items():
                table = _with_places(table, prefix, [placed.get(path or "") for path in column])
                names = [None if path is None else os.path.relpath(path, home) for path in column]
                table = _with(table, "mask_path" if prefix else "path", pa.array(names, pa.large_string()))
            offset, length = _add_index(archive, table)
            archive.comment = f"bsgal-bench pool {offset} {length}".encode()
    except OSError as error:
        raise not_written(out, error) from error
    return sum(place is None for place in placed.values())


def _add(archive: zipfile.ZipFile, path: str, name: str) -> tuple[int, int, int] | None:
    """Where a file's bytes lie, how many, and their checksum; None if there is no such file."""
    if not os.path.isfile(path):
        return None
    info = zipfile.ZipInfo(name)  # without its time, so that equal pools are equal files
    content = Path(path).read_bytes()
    archive.writestr(info, content)
    return info.header_offset + len(info.FileHeader()), len(content), info.CRC


def _add_index(archive: zipfile.ZipFile, table: pa.Table) -> tuple[int, int]:
    stream = pa.BufferOutputStream()
    batch = table.combine_chunks().to_batches()[0]
    with pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)
    content = stream.getvalue()
    info = zipfile.ZipInfo(INDEX)
    begin = archive.start_dir + 30 + len(INDEX) + 4  # a local header: 30 bytes, the name, the extra field's own header
    padding = -begin % ALIGNMENT
    info.extra = struct.pack("<HH", PADDING, padding) + bytes(padding)
    archive.writestr(info, content.to_pybytes())
    return begin + padding, content.size


def _with_places(table: pa.Table, prefix: str, places: list[tuple[int, int, int] | None]) -> pa.Table:
    for number, name in enumerate((OFFSET, BYTES, CRC)):
        values = [None if place is None else place[number] for place in places]
        table = _with(table, f"{prefix}{name}", pa.array(values, pa.int64()))
    return table


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)
