"""Pools of pictures, of other pools and of parts of one: `harness data make-pool`, `merge-pools`, `subset-pool`."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from harness.data.pool.checked import CATEGORY, ISOLATED, MASK_PATH, PATH
from harness.data.pool.index import read_pool, sorted_by_category, write_index
from harness.data.pool.numbering import BY, INSTANCES, Numbering
from harness.data.pool.packed import SUFFIX, pack
from harness.errors import UserError, not_written
from harness.record.files import write_atomically, write_table
from harness.record.names import nearest
from methods.filters import place_in_category

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
COMPARISONS = {">=": compute.greater_equal, "<=": compute.less_equal, "=": compute.equal}


# --------------------------------------------------------------------------------------------------- from pictures


@dataclass
class _Listing:
    """A pool while it is made: entries by category, and what is known of each."""

    entries: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    columns: list[dict[str, Any]] = field(default_factory=list)


def make_pool(
    pictures: Path, masks: Sequence[Path], out: Path, by: str = "name", similarity: Path | None = None
) -> str:
    """Writes a pool of `pictures/<category>/<file>`, each with its mask of the same name in every folder of `masks`.

    Without masks the pictures must be RGBA. A mask folder's `results.json`, as X-Paste and DiverGen write it, gives
    clip_score (percent) and area_fraction; a CSV `category,filename,similarity`, as DiverGen writes it, gives
    inter_similarity. They go into NAME.columns.csv beside it. Raises UserError for what does not fit together.
    """
    if not pictures.is_dir():
        raise UserError(f"{pictures}: no such folder; expected one subfolder of images per category")
    similar = _similarities(similarity) if similarity else {}
    layers: list[tuple[Path | None, dict[str, Any]]] = [(folder, _results(folder / "results.json")) for folder in masks]
    made = _Listing()
    for folder in sorted(path for path in pictures.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        for number, file in enumerate(files):
            for mask, known in layers or [(None, {})]:
                row: dict[str, Any] = _scored(known, folder.name, number, len(files))
                if similarity:
                    row["inter_similarity"] = similar.get((folder.name, file.name), similar.get(("", file.name)))
                _add(made, folder.name, file, mask, row, out.parent)
    if not made.columns:
        raise UserError(f"{pictures}: no subfolder holds images ({', '.join(PICTURES)})")
    _write_json(out, made, by)
    return f"{out}: {len(made.columns)} instances of {len(made.entries)} categories by {by}"


def _add(made: _Listing, category: str, file: Path, masks: Path | None, row: dict[str, Any], home: Path) -> None:
    entry = os.path.relpath(file, home)
    if masks is not None:
        mask = masks / category / f"{file.stem}.png"
        if not mask.is_file():
            raise UserError(f"{mask} does not exist: every image needs a mask of the same name")
        entry += f"|{os.path.relpath(mask, home)}"
        row["segmentation"] = masks.name
    made.entries[category].append(entry)
    made.columns.append({"category": category, "path": entry, **row})


def _results(path: Path) -> dict[str, dict[str, Any]]:
    """By category name and by 0-based number: an object with clip_scores and areas, one an image in sorted order."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        named = {str(entry["name"]): entry for entry in content}
        return named | {str(int(entry["id"]) - 1): entry for entry in content}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a results.json of X-Paste or DiverGen ({error!r})") from error


def _scored(known: dict[str, dict[str, Any]], category: str, number: int, of: int) -> dict[str, Any]:
    if not known:
        return {}
    entry = known.get(category, {})
    row: dict[str, Any] = {}
    for column, key in (("clip_score", "clip_scores"), ("area_fraction", "areas")):
        values = entry.get(key) or []
        if values and len(values) != of:
            raise UserError(f"results.json has {len(values)} {key} of {category}, whose folder holds {of} images")
        row[column] = values[number] if values else None
    if row["clip_score"] is not None and row["clip_score"] < 0:  # a batch that failed
        row = dict.fromkeys(row)
    return row


def _similarities(path: Path) -> dict[tuple[str, str], float]:
    """By (category, file name); also by file name alone, where folders are named by number."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = {(row["category"], row["filename"]): float(row["similarity"]) for row in rows}
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a CSV with category, filename and similarity ({error!r})") from error
    names = [name for _, name in found]
    alone = {("", name): value for (_, name), value in found.items() if name[:1].isdigit() and "_" in name}
    return found if len(set(names)) < len(names) else found | alone


# ------------------------------------------------------------------------------------------------------ from pools


def merge_pools(sources: Sequence[Path], out: Path, numbering: Numbering | None) -> str:
    """Writes the instances of several pools, in their order, with the columns of all; what one lacks is left empty.

    Raises UserError.
    """
    tables = [located(source, numbering) for source in sources]
    try:
        table = sorted_by_category(pa.concat_tables(tables, promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(
            f"columns with the same name have different types in {', '.join(map(str, sources))}: {error}"
        ) from None
    return written(table, out)


def subset_pool(
    source: Path,
    out: Path,
    numbering: Numbering | None,
    where: Sequence[str] = (),
    per_category: int | None = None,
    seed: int = 0,
) -> str:
    """Writes the part of a pool that meets every `COLUMN>=VALUE` of `where`, at most so many of each category.

    Which ones is random by `seed`, and a smaller number's are among a larger one's. Raises UserError.
    """
    table = located(source, numbering)
    for condition in where:
        table = table.filter(_meets(table, condition))
    if per_category is not None:
        rng = np.random.Generator(np.random.PCG64(seed))
        place = place_in_category(table.column(CATEGORY).to_numpy(), rng.random(len(table)))
        table = table.filter(pa.array(place < per_category))
    if len(table) == 0:
        raise UserError(f"{source}: nothing is left of it")
    return written(table, out)


def pack_pool(source: Path, out: Path, numbering: Numbering | None) -> str:
    """Writes a pool and its images into one file, `data.pool=FILE.zip`. Raises UserError."""
    if out.suffix != SUFFIX:
        raise UserError(f"{out}: the name must end in {SUFFIX}")
    table = sorted_by_category(located(source, numbering))
    files = {"": table.column(PATH).to_pylist()}
    if MASK_PATH in table.column_names:
        files["mask_"] = table.column(MASK_PATH).to_pylist()
    missing = pack(table, files, out)
    left = f"; {missing} files do not exist" if missing else ""
    return f"{out}: {len(table)} instances in {out.stat().st_size / 2**20:.0f} MiB{left}"


def _meets(table: pa.Table, condition: str) -> pa.ChunkedArray:
    sign = next((sign for sign in COMPARISONS if sign in condition), None)
    name, _, value = condition.partition(sign or "=")
    if sign is None or name not in table.column_names:
        raise UserError(
            f"--where {condition}: write COLUMN>=VALUE, <= or =; {nearest(name.strip(), table.column_names)}"
        )
    column = table.column(name)
    try:
        return COMPARISONS[sign](column, pa.scalar(value).cast(column.type))
    except pa.ArrowInvalid as error:
        raise UserError(f"--where {condition}: {name} holds {column.type}") from error


def located(source: Path, numbering: Numbering | None) -> pa.Table:
    """A pool's table with absolute paths."""
    if not source.is_file():
        raise UserError(f"{source}: no such pool")
    table = read_pool(source, numbering)
    root = Path(table.schema.metadata[b"root"].decode())
    for name in (PATH, MASK_PATH):
        if name in table.column_names:
            paths = [None if path is None else str(root / path) for path in table.column(name).to_pylist()]
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.array(paths, pa.large_string()))
    return table.replace_schema_metadata(None)


def written(table: pa.Table, out: Path) -> str:
    """Writes a table of absolute paths in the format that the file's name asks for."""
    out.parent.mkdir(parents=True, exist_ok=True)
    home = out.parent.resolve()
    if out.suffix == ".json":
        _write_json(out, _published(table, home), "index")
    elif out.suffix == ".arrow":
        write_index(table.replace_schema_metadata({"root": str(home)}), out)
    elif out.suffix == ".parquet":
        write_table(table.replace_schema_metadata({"root": "."}), out)
    else:
        raise UserError(f"{out}: the name must end in .json, .arrow or .parquet")
    return f"{out}: {len(table)} instances of {len(table.column(CATEGORY).unique())} categories"


def _published(table: pa.Table, home: Path) -> _Listing:
    further = [name for name in table.column_names if name not in (CATEGORY, PATH, MASK_PATH, ISOLATED)]
    made = _Listing()
    for row in _rows(table):
        entry = ("*" if row.get(ISOLATED) else "") + os.path.relpath(row[PATH], home)
        if row.get(MASK_PATH):
            entry += f"|{os.path.relpath(row[MASK_PATH], home)}"
        category = str(row[CATEGORY])
        made.entries[category].append(entry)
        made.columns.append({"category": category, "path": entry, **{name: row[name] for name in further}})
    return made


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches():
        yield from batch.to_pylist()


def _write_json(out: Path, made: _Listing, by: str) -> None:
    """The JSON, and its columns beside it where there are any."""
    content = made.entries if by == "index" else {BY: by, INSTANCES: made.entries}
    names = list(dict.fromkeys(name for row in made.columns for name in row))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if len(names) > 2:
            columns = out.with_name(f"{out.stem}.columns.csv")
            with write_atomically(columns) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(made.columns)
        with write_atomically(out) as temporary:
            temporary.write_text(json.dumps(content))
    except OSError as error:
        raise not_written(out, error) from error
