"""From a pool to an index of which every image is known to be good: the work of `harness data index-pool`."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from tqdm import tqdm

from harness.data.fingerprint import fingerprint
from harness.data.paste.cutout import ALPHA_THRESHOLD, Fault, FaultyInstance, isolate, read_rgba
from harness.data.pool.checked import CATEGORY, ISOLATED, MASK_PATH, PATH
from harness.data.pool.index import read_pool, write_index
from harness.data.pool.numbering import Numbering
from harness.data.pool.sources import FileSource
from harness.errors import UserError, not_written
from harness.record.files import as_cell, write_atomically

CHUNK = 1024  # images between two savings
FAULT = "fault"
MEASURED = pa.schema(
    [
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("area_fraction", pa.float32()),
        ("sha1", pa.string()),
        (FAULT, pa.string()),
    ]
)


@dataclass(frozen=True)
class IndexSummary:
    """What indexing found. faults: images by fault, all of them in the CSV `fault_list`."""

    index: Path
    fault_list: Path
    images: int
    good: int
    duplicates: int
    faults: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.index}: {self.good} of {self.images} instances, {self.duplicates} of them duplicates"]
        lines += [f"  {count} left out: {fault}" for fault, count in sorted(self.faults.items())]
        return "\n".join([*lines, f"  listed in {self.fault_list}"] if self.faults else lines)


def index_pool(
    source: Path, out: Path | None = None, workers: int | None = None, numbering: Numbering | None = None
) -> IndexSummary:
    """Reads and checks every image of a pool and writes an index of the good ones, NAME.arrow without `out`.

    Adds the columns width, height (of the generated image), area_fraction (of the instance), sha1 (of the files'
    contents) and duplicate (an earlier row has the same contents). Faulty ones go into NAME.faults.csv. Killed
    and restarted, it resumes. Raises UserError when the pool cannot be read or nothing in it is good.
    """
    out = source.with_suffix(".arrow") if out is None else out
    table = read_pool(source, numbering)
    if len(table) == 0:
        raise UserError(f"{source}: the pool is empty")
    partial = out.with_name(f".{out.stem}-{fingerprint(source)[:16]}.partial")
    fault_list = out.with_name(f"{out.stem}.faults.csv")
    try:
        measured = _measure(table, partial, workers or os.cpu_count() or 1)
        faults = measured.column(FAULT).to_pylist()
        _write_faults(table, faults, fault_list)
    except OSError as error:
        raise not_written(out.parent, error) from error
    found = Counter(fault for fault in faults if fault is not None)
    good = pa.array([fault is None for fault in faults])
    for name in MEASURED.names[:-1]:
        values = measured.column(name)
        if name in table.column_names:
            values = compute.coalesce(values, table.column(name).cast(values.type))
            table = table.drop_columns(name)
        table = table.append_column(name, values)
    table = table.filter(good)
    if len(table) == 0:
        raise UserError(f"{source}: none of its {len(faults)} images can be used; {fault_list} says why")
    duplicate = _duplicates(table.column("sha1").to_pylist())
    if "duplicate" in table.column_names:
        table = table.drop_columns("duplicate")
    write_index(
        table.append_column("duplicate", pa.array(duplicate)), out, source if source.suffix == ".json" else None
    )
    shutil.rmtree(partial, ignore_errors=True)
    return IndexSummary(out, fault_list, len(faults), len(table), int(duplicate.sum()), dict(found))


def _measure(table: pa.Table, partial: Path, workers: int) -> pa.Table:
    """Measures all rows, chunk by chunk; chunks that an earlier, killed run saved are read instead."""
    partial.mkdir(parents=True, exist_ok=True)
    root = Path(table.schema.metadata[b"root"].decode())
    parts = []
    with _mapping(workers) as measured, tqdm(total=len(table), desc="index pool", unit="image") as bar:
        for start in range(0, len(table), CHUNK):
            rows = table.slice(start, CHUNK)
            saved = partial / f"{start:09d}.arrow"
            part = _saved(saved, len(rows))
            if part is None:
                part = pa.Table.from_pylist(list(measured(_sources(rows, root))), schema=MEASURED)
                with write_atomically(saved) as temporary, pa.ipc.new_file(str(temporary), MEASURED) as writer:
                    writer.write_table(part)
            parts.append(part)
            bar.update(len(rows))
            bar.set_postfix(faulty=sum(len(p) - p.column(FAULT).null_count for p in parts))
    return pa.concat_tables(parts)


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[[Iterable[FileSource]], Iterable[dict[str, object]]]]:
    """Measures images in order, in as many processes; in this one for a single worker."""
    if workers == 1:
        yield lambda sources: map(_measure_one, sources)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda sources: pool.map(_measure_one, sources, chunksize=16)


def _saved(path: Path, length: int) -> pa.Table | None:
    try:
        part = pa.ipc.open_file(str(path)).read_all()
    except (OSError, pa.ArrowInvalid):
        return None
    return part if len(part) == length else None


def _sources(rows: pa.Table, root: Path) -> Iterator[FileSource]:
    names = rows.column_names
    paths = rows.column(PATH).to_pylist()
    masks = rows.column(MASK_PATH).to_pylist() if MASK_PATH in names else [None] * len(paths)
    isolated = rows.column(ISOLATED).to_pylist() if ISOLATED in names else [False] * len(paths)
    for path, mask, cut in zip(paths, masks, isolated, strict=True):
        yield FileSource(str(root / path), str(root / mask) if mask else None, bool(cut))


def _measure_one(source: FileSource) -> dict[str, object]:
    """Measures one image; `fault` is None when it is good."""
    row: dict[str, object] = dict.fromkeys(MEASURED.names)
    try:
        rgba = read_rgba(source)
        row |= {"height": rgba.shape[0], "width": rgba.shape[1], "sha1": _sha1(source)}
        if source.isolated:
            opaque = cv2.countNonZero(cv2.threshold(rgba[..., 3], ALPHA_THRESHOLD, 1, cv2.THRESH_BINARY)[1])
            if opaque == 0:  # what it covered of its image is no longer known
                raise FaultyInstance(Fault.empty_mask, source.path)
        else:
            row["area_fraction"] = isolate(rgba, source.mask_path or source.path)[1]
    except FaultyInstance as fault:
        row[FAULT] = fault.fault.value
    return row


def _sha1(source: FileSource) -> str:
    digest = hashlib.sha1(Path(source.path).read_bytes(), usedforsecurity=False)
    if source.mask_path is not None:
        digest.update(Path(source.mask_path).read_bytes())
    return digest.hexdigest()


def _duplicates(hashes: list[str]) -> np.ndarray:
    """(N,) bool: an earlier row has the same hash."""
    _, first = np.unique(np.array(hashes), return_index=True)
    duplicate = np.ones(len(hashes), bool)
    duplicate[first] = False
    return duplicate


def _write_faults(table: pa.Table, faults: list[str | None], path: Path) -> None:
    categories, paths = table.column(CATEGORY).to_pylist(), table.column(PATH).to_pylist()
    masks = table.column(MASK_PATH).to_pylist() if MASK_PATH in table.column_names else [None] * len(paths)
    with write_atomically(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "path", "mask_path", "fault"])
        for row in zip(categories, paths, masks, faults, strict=True):
            if row[-1] is not None:
                writer.writerow(["" if value is None else as_cell(value) for value in row])
