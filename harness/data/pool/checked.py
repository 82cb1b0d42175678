"""Checks of a pool's table before anything reads it: Arrow trusts a file's offsets and types, and wrong ones crash its
C++ code."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as compute

from harness.errors import UserError, first_line

CATEGORY, PATH, MASK_PATH, ISOLATED = "category_id", "path", "mask_path", "isolated"
MOST_CATEGORIES = 10**6


def check_pool(table: pa.Table | pa.RecordBatch, path: Path) -> None:
    """Raises UserError, naming file and column, for a table that is damaged, lacks a column or has one of another type.

    Columns hold numbers, text, booleans or times; category_id holds integers of at least 0 and path text, both without
    gaps.
    """
    try:
        table.validate(full=True)
        names = table.schema.names
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path}: damaged ({first_line(error)}); make the pool again") from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: has the column {twice!r} twice")
    if missing := sorted({CATEGORY, PATH} - set(names)):
        raise UserError(f"{path}: has no column {', '.join(missing)}")
    for field in table.schema:
        if (wanted := _wanted(field)) is not None:
            raise UserError(f"{path}: column {field.name!r} holds {field.type}; {wanted}")
    for name in (CATEGORY, PATH):
        if table.column(name).null_count:
            raise UserError(f"{path}: column {name!r} has empty cells")
    bounds = compute.min_max(table.column(CATEGORY)).as_py()
    if len(table) and not (bounds["min"] >= 0 and bounds["max"] < MOST_CATEGORIES):
        wrong = bounds["min"] if bounds["min"] < 0 else bounds["max"]
        raise UserError(f"{path}: category {wrong}; expected 0 to {MOST_CATEGORIES - 1}")


def _wanted(field: pa.Field) -> str | None:
    """What a column should hold, where it holds something else."""
    kind = field.type
    if field.name == CATEGORY:
        return None if pa.types.is_integer(kind) else "expected integers"
    if field.name in (PATH, MASK_PATH):
        return None if _is_text(kind) or (field.name == MASK_PATH and pa.types.is_null(kind)) else "expected texts"
    if field.name == ISOLATED:
        return None if pa.types.is_boolean(kind) else "expected true or false"
    words = pa.types.is_dictionary(kind) and _is_text(kind.value_type)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    good = number or words or _is_text(kind) or pa.types.is_temporal(kind) or pa.types.is_null(kind)
    return None if good else "expected numbers, text, booleans or times"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
