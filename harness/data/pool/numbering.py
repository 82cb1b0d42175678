"""What a pool calls its categories, where it says so: `{"by": "name", "instances": {"teapot": [...], ...}}`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.data.lvis.annotations import Annotations
from harness.errors import UserError
from harness.record.names import nearest

BY, INSTANCES = "by", "instances"
# 0-based number, like the published pools; LVIS's name; its synset; its 1-based id
KINDS = ("index", "name", "synset", "lvis_id")


@dataclass(frozen=True)
class Numbering:
    """The dataset's categories under each of their names."""

    annotations: Annotations

    @cached_property
    def stamp(self) -> str:
        """8 hexadecimal digits that change with the categories."""
        known = self.annotations
        text = "\n".join(map(str, zip(known.category_ids, known.category_names, known.category_synsets, strict=True)))
        return f"{zlib.crc32(text.encode()):08x}"

    def numbers(self, by: str) -> dict[str, int]:
        """0-based category by name, synset or LVIS id."""
        known = self.annotations
        column = {"name": known.category_names, "synset": known.category_synsets, "lvis_id": known.category_ids}[by]
        return {str(value): number for number, value in enumerate(column.tolist()) if str(value)}


def categories_of(path: Path, content: Mapping[str, Any], numbering: Numbering | None) -> dict[str, int]:
    """The 0-based category of every key of a pool's JSON, which names them by number unless `by` says otherwise.

    Raises UserError for a key that names no category, and for names where no dataset tells what they mean.
    """
    by = content.get(BY, "index")
    if by not in KINDS:
        raise UserError(f"{path}: {BY} is {by!r}; {nearest(str(by), KINDS)}")
    keys = list(instances_of(path, content))
    if by == "index":
        wrong = [key for key in keys if not re.fullmatch("-?[0-9]{1,9}", key)]
        if wrong:
            raise UserError(
                f"{path}: category {wrong[0][:40]!r} is not an integer; a pool that uses category names says so: "
                f'{{"{BY}": "name", "{INSTANCES}": {{...}}}} ({", ".join(KINDS[1:])})'
            )
        return {key: int(key) for key in keys}
    if numbering is None:
        raise UserError(f"{path}: identifies categories by {by}, which needs a dataset; add --data lvis_v1")
    numbers = numbering.numbers(by)
    for key in keys:
        if key not in numbers:
            raise UserError(f"{path}: the dataset has no category with {by} {key!r}; {nearest(key, numbers)}")
    return {key: numbers[key] for key in keys}


def instances_of(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The lists of entries by category."""
    if BY not in content:
        return content
    instances = content.get(INSTANCES)
    if not isinstance(instances, dict):
        raise UserError(f"{path}: has {BY!r} but no object {INSTANCES!r}")
    return instances
