"""A run's decisions while it trains: every rank appends to a file of its own, and memory holds the last rows alone.

decisions/rank0.arrow   an Arrow stream without its end mark: the schema, then batches of rows

What a checkpoint keeps is how long the file was, so a run that resumes from it cuts off what came later. After
training, `write_decisions` makes decisions.parquet of all ranks' files.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.record.decisions import LOGGED, SCHEMA, of_single_instances
from harness.record.files import write_atomically

HELD_ROWS = 4096  # in memory before they are written
RECENT = 2000  # decisions that an acceptance rate while training is taken from
GROUP_ROWS = 16384  # of decisions.parquet

Row = dict[str, Any]


class DecisionLog:
    """One rank's decisions. `append` takes a dictionary an image: the columns of decisions.parquet but clean_share."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = _path(folder, rank)
        self._held: list[Row] = []
        self._bytes = 0
        self._recent: deque[tuple[int, bool, bool]] = deque(maxlen=RECENT)

    def append(self, rows: Sequence[Row]) -> None:
        self._held += rows
        for row in rows:
            single = row.get("kept")
            each = [row["accepted"]] if single is None else single
            self._recent.extend((row["iteration"], row["decided"], accepted) for accepted in each)
        if len(self._held) >= HELD_ROWS:
            self._flush()

    def acceptance(self, since: int) -> float | None:
        """The share accepted of what was decided from an iteration on, as far as the last decisions reach; of instances
        where single ones were decided about."""
        recent = [accepted for iteration, decided, accepted in self._recent if decided and iteration >= since]
        return sum(recent) / len(recent) if recent else None

    def save(self) -> dict[str, Any]:
        """Brings all rows to the disk. Gives what a checkpoint keeps, for `restore`."""
        self._flush()
        if self._bytes:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return {"bytes": self._bytes, "recent": [list(row) for row in self._recent]}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes back to what `save` gave; to nothing without. Raises ValueError if the file has become shorter."""
        self._held.clear()
        self._recent.clear()
        self._bytes = state["bytes"] if state else 0
        self._recent.extend((i, decided, accepted) for i, decided, accepted in (state["recent"] if state else ()))
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self._bytes:
            raise ValueError(
                f"{self.path} holds {size} bytes, and the checkpoint knows of {self._bytes}: the disk has lost some; "
                "delete the folder checkpoint beside it to train again"
            )
        if size > self._bytes:
            os.truncate(self.path, self._bytes)

    def _flush(self) -> None:
        if not self._held:
            return
        batch = pa.RecordBatch.from_pylist(self._held, LOGGED)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if not self._bytes:
                file.write(LOGGED.serialize())
            file.write(batch.serialize())
            self._bytes = file.tell()
        self._held.clear()


def write_decisions(folder: Path, ranks: int, clean: np.ndarray | None) -> None:
    """Writes decisions.parquet from the ranks' files, rank by rank.

    clean: (N,) bool by pool row, None if no truth is known.
    """
    batches = (batch for rank in range(ranks) for batch in _batches(_path(folder, rank)))
    with (
        write_atomically(folder / "decisions.parquet") as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd", use_dictionary=False) as writer,
    ):
        for table in _grouped(batches):
            table = table.append_column(SCHEMA.field("clean_share"), _clean_share(table, clean))
            writer.write_table(table.append_column(SCHEMA.field("clean"), _clean(table, clean)))


def drop_logs(folder: Path) -> None:
    """Deletes the ranks' files, once nothing can go on from them any more."""
    shutil.rmtree(folder / "decisions", ignore_errors=True)


def _path(folder: Path, rank: int) -> Path:
    return folder / "decisions" / f"rank{rank}.arrow"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.is_file():
        with path.open("rb") as file:
            yield from pa.ipc.open_stream(file)


def _grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of GROUP_ROWS rows, the last one of fewer, however the rows are cut into batches."""
    held = LOGGED.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch])])
        while len(held) >= GROUP_ROWS:
            yield held[:GROUP_ROWS].combine_chunks()
            held = held[GROUP_ROWS:]
    if len(held):
        yield held.combine_chunks()


def _clean(table: pa.Table, clean: np.ndarray | None) -> pa.Array:
    """Of each image's instances, where single ones were decided about: for the others the share says as much."""
    single = of_single_instances(table).combine_chunks()
    if clean is None or not pc.any(single).as_py():
        return pa.nulls(len(table), pa.list_(pa.bool_()))
    rows = table["pool_rows"].combine_chunks()
    values = pa.array(clean[pc.list_flatten(rows).to_numpy()])
    lists = pa.ListArray.from_arrays(rows.offsets, values)
    return pc.if_else(single, lists, pa.nulls(len(table), lists.type))


def _clean_share(table: pa.Table, clean: np.ndarray | None) -> pa.Array:
    if clean is None:
        return pa.nulls(len(table), pa.float64())
    rows = table["pool_rows"].combine_chunks()
    image = pc.list_parent_indices(rows).to_numpy()
    counts = np.bincount(image, minlength=len(table))
    sums = np.bincount(image, clean[pc.list_flatten(rows).to_numpy()], len(table))
    return pa.array(sums / np.maximum(counts, 1), mask=counts == 0)
