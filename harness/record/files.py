"""Writing files whole or not at all: to a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def is_written_short(error: BaseException) -> bool:
    """Whether torch or NumPy could not write to a file's end, in whose words the system's own are hidden."""
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in ("unexpected pos", "PytorchStreamWriter failed writing"))
    return isinstance(error, OSError) and error.errno is None and "requested and" in str(error)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder, renamed to `path` on success and removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp's files are their maker's alone; ours all may read, and a group write where its folder is.
        temporary.chmod(0o664 if path.parent.stat().st_mode & stat.S_IWGRP else 0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_written_short(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write itself does not know it
        raise


def drop_unfinished(folder: Path) -> None:
    """Deletes what writers that were killed have left below a folder."""
    for path in folder.rglob(".*.part"):
        if path.is_file():
            path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def as_cell(value: Any) -> Any:
    """A cell of a CSV that people open: a text that a spreadsheet would take for a formula, marked as a text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet by rename."""
    import pyarrow.parquet as pq

    with write_atomically(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def share_with_group(folder: Path) -> None:
    """Lets the group write what this process makes from now on, where it may write to `folder` (or its nearest parent).

    Several people who work on one folder of runs go on with each other's runs, whatever their umask is.
    """
    existing = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), None)
    if existing is not None and existing.stat().st_mode & stat.S_IWGRP:
        os.umask(os.umask(0) & ~stat.S_IWGRP)
