"""A pool as Parquet, for exchange: the work of `harness data export`."""

from __future__ import annotations

import os
from pathlib import Path

from harness.data.pool.index import read_pool
from harness.data.pool.numbering import Numbering
from harness.errors import UserError, not_written
from harness.record.files import write_table


def export_pool(source: Path, out: Path, numbering: Numbering | None = None) -> str:
    """Writes a pool of any format with all its columns; returns a line on what was written.

    The folder of the images is kept relative to the file, so that both can be handed on together. Raises UserError.
    """
    if out.suffix != ".parquet":
        raise UserError(f"{out}: the name must end in .parquet")
    if not source.is_file():
        raise UserError(f"{source}: no such pool")
    table = read_pool(source, numbering)
    root = table.schema.metadata[b"root"].decode()
    relative = os.path.relpath(root, out.parent.absolute())
    try:
        write_table(table.replace_schema_metadata({"root": relative}), out)
    except OSError as error:
        raise not_written(out, error) from error
    return f"{out}: {len(table)} instances, columns {', '.join(table.column_names)}; images below {root}"
