"""Reading what others may have written: regular files of a bounded size, checked against a dataclass's types."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar

import pydantic_core
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
MOST_BYTES = 2**28

# Runs and sweeps are folders, parts of links and words of command lines: no separators, no options, nothing hidden.
NAME = r"^\w[\w.+-]{0,199}$"
MOST_LABEL = 300  # characters


class Damaged(ValueError):
    """A file is not what it should be. The message is one sentence that names the file and the remedy."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must not contain control characters")
    return text


Time = Annotated[float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)]  # seconds since 1970, to the year 9999
Name = Annotated[str, StringConstraints(pattern=NAME)]
Label = Annotated[str, StringConstraints(max_length=MOST_LABEL), AfterValidator(_printable)]


def is_name(text: str) -> bool:
    """Whether a run or a sweep may be called so."""
    try:
        _adapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


@contextmanager
def regular_file(path: Path | str) -> Iterator[BinaryIO | None]:
    """A file opened to be read; None for a folder, a device, or a pipe, which is not waited for. Raises OSError as
    `open` does."""
    handle = _regular(path)
    if handle is None:
        yield None
        return
    with os.fdopen(handle, "rb") as file:
        yield file


def _regular(path: Path | str) -> int | None:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes | None:
    """A regular file's contents; None if there is none. Raises Damaged for what is no file, or larger than `most`.

    A pipe in its place is not waited for. Raises OSError as `open` does. Without a file object: a report
    may read ten thousand records, and every call of the system counts.
    """
    try:
        handle = _regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if handle is None:
        raise Damaged(f"{path} is not a regular file; move it away")
    try:
        size = min(os.fstat(handle).st_size, most)
        content = os.read(handle, size + 1)  # room for `most` at once would take longer than reading
        while len(content) != size and len(content) <= most and (more := os.read(handle, 2**20)):
            content += more
    finally:
        os.close(handle)
    if len(content) > most:
        raise Damaged(f"{path} is larger than {most // 2**20} MB, larger than any such file of ours; move it away")
    return content


def read_json(path: Path, kind: Any, what: str, remedy: str, newest: int | None = None) -> Any:
    """An object of a dataclass, with those of the file's entries that it knows; None if there is no file.

    what, remedy: such as "a record" and "delete it". newest: the newest known `schema`. Raises Damaged.
    """
    text = read_bytes(path)
    if text is None:
        return None
    try:
        content = pydantic_core.from_json(text)
        schema = content.get("schema") if isinstance(content, dict) else None
        if newest is not None and isinstance(schema, int) and schema > newest:
            raise Damaged(f"{path}: written by a newer version (schema {schema}); upgrade bsgal-bench")
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        reason = f"{place}: {first['msg']}" if place else first["msg"]
    except Damaged:
        raise
    except (ValueError, RecursionError) as error:
        reason = str(error)
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in reason[:200])
    raise Damaged(f"{path} is not {what} ({shown}); {remedy}")


def of_types(kind: Any) -> Callable[[Any], Any]:
    """A check that a value has these types, which hands it on as it is."""

    def check(value: Any) -> Any:
        _adapter(kind).validate_python(value)
        return value

    return check


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


MOST_YAML_BYTES, MOST_YAML_NODES = 2**22, 100_000


def read_yaml(path: Path) -> Any:
    """What a YAML file written by hand says, in plain values.

    Raises Damaged for one that is none, is not UTF-8, is absurdly large or deep, or whose aliases make it so.
    """
    import yaml

    try:
        text = (read_bytes(path, MOST_YAML_BYTES) or b"").decode()
        tree = yaml.compose(text, yaml.SafeLoader)
        if tree is not None and _nodes(tree, {}) > MOST_YAML_NODES:
            raise Damaged(f"{path}: its aliases expand to more than {MOST_YAML_NODES} entries; write them out")
        return yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is not UTF-8 (at byte {error.start}); save it as UTF-8") from error
    except RecursionError:
        raise Damaged(f"{path}: entries contain themselves; write them out") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error


def _nodes(node: Any, known: dict[int, float]) -> float:
    """How many entries a YAML node comes to when its aliases are written out; without end for one within itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = node.value if isinstance(node.value, list) else []
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


MOST_TABLE_BYTES = 2**33  # of a table in memory, as its file says


def read_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file, and what its writer noted beside them. Raises Damaged."""
    with _parquet_errors(path):
        return _described(path)


def read_parquet(path: Path, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file's table, or some of its columns and rows, with contents as its types say.

    Raises Damaged for a file that cannot be read, lacks a column, or would need absurdly much memory.
    """
    import pyarrow.parquet as pq

    with _parquet_errors(path):
        known = _described(path).names
        if missing := [name for name in columns or [] if name not in known]:
            raise ValueError(f"no column {missing[0]!r}")
        if filters is not None:
            table = pq.read_table(path, columns=columns, filters=filters)
        else:  # the same, without the quarter of a second in which Arrow imports what filters
            with pq.ParquetFile(path) as file:
                table = file.read(columns)
            table = table if columns is None else table.select(columns)  # in this order, as read_table has them
        table.validate(full=True)
        return table


def read_typed(path: Path, columns: Mapping[str, str], filters: Any = None, gaps: Collection[str] = ()) -> pa.Table:
    """Columns of these types, by Arrow's names of them; gaps: which may have empty cells. Raises Damaged."""
    import pyarrow as pa

    table = read_parquet(path, list(columns), filters)
    try:
        table = table.cast(pa.schema([(name, columns[name]) for name in table.column_names]))
    except (ValueError, pa.ArrowException) as error:
        raise Damaged(f"{path}: a column has the wrong type ({str(error)[:100]})") from error
    for name in table.column_names:
        if name not in gaps and table[name].null_count:
            raise Damaged(f"{path}: column {name!r} has empty cells")
    return table


def _described(path: Path) -> pa.Schema:
    """A file's schema, whose names can be decoded. Raises ValueError and Arrow's errors."""
    import pyarrow.parquet as pq

    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("no regular file")
    described = pq.read_metadata(path)
    size = sum(described.row_group(place).total_byte_size for place in range(described.num_row_groups))
    if size > MOST_TABLE_BYTES:
        raise ValueError(f"it claims to hold {size / 2**30:.0f} GB")
    schema = described.schema.to_arrow_schema()
    _ = schema.names
    return schema


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Damaged(f"{path}: not a readable Parquet file ({reason[:200]})") from error
