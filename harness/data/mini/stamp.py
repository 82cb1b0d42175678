"""The stamp of the embedded dataset's folder: which of its files the recipe wrote.

mini.json  {"recipe": {...}, "files": {"coco/train2017/x.png": null, "pools/x.columns.csv": "<sha256>", ...}}

Files that are not listed there belong to somebody else, and are never deleted. Folders that older versions made have
the number of files in place of their names. While files are replaced, the recipe is null.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.record.files import write_json

NAME = "mini.json"
PARTS = ("lvis", "coco", "pools", "truth")
_KINDS = {".png", ".json", ".csv", ".parquet"}


@dataclass(frozen=True)
class Stamp:
    """files: the SHA-256 of what holds columns of a pool, None for others. count: of files, where their names are not
    known."""

    recipe: dict[str, int] | None
    files: dict[str, str | None]
    count: int | None = None

    def is_whole(self, folder: Path, recipe: dict[str, int]) -> bool:
        """Whether a folder holds all that this recipe makes."""
        if self.recipe != recipe:
            return False
        present = files_below(folder)
        return len(present) >= self.count if self.count is not None else self.files.keys() <= present


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of a folder; None if there is none, or if the file has another format."""
    try:
        content = json.loads((folder / NAME).read_bytes())
        recipe, files = content["recipe"], content["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(files, int):
        return Stamp(recipe, {}, files)
    return Stamp(recipe, files) if isinstance(files, dict) and all(map(_is_inside, files)) else None


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Writes a folder's stamp, atomically."""
    content: dict[str, Any] = asdict(stamp)
    content.pop("count")
    write_json(folder / NAME, content)


def stamp_of(folder: Path, recipe: dict[str, int]) -> Stamp:
    """The stamp of a folder in which the recipe has just made everything."""
    return Stamp(recipe, {name: _digest(folder / name) for name in sorted(files_below(folder))})


def files_below(folder: Path) -> set[str]:
    """The files of the kinds that the recipe makes, in the folders where it makes them."""
    found: set[str] = set()
    for part in PARTS:  # names, not paths: every run looks, and five times as fast
        for place, _, names in os.walk(folder / part):
            below = Path(place).relative_to(folder).as_posix()
            found.update(f"{below}/{name}" for name in names if os.path.splitext(name)[1] in _KINDS)
    return found


def is_as_made(folder: Path, file: Path) -> bool:
    """Whether a column file of a pool is the one that the recipe wrote, and follows from the pool itself."""
    stamp = read_stamp(folder)
    if stamp is None or file.parent != folder / "pools":
        return False
    if stamp.count is not None:
        return file.stat().st_mtime <= (folder / NAME).stat().st_mtime
    return stamp.files.get(f"pools/{file.name}") == _digest(file)


def check_room(folder: Path) -> None:
    """Raises UserError for a folder that holds something and no stamp that names the recipe's files."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; move it away, or set data.root to another place")
    stamp = read_stamp(folder)
    if (stamp is None or stamp.count is not None) and any(folder.iterdir()):
        raise UserError(
            f"{folder} holds other files than the embedded dataset, or only part of it; "
            "move the folder away, or set data.root to another one"
        )


def move_in(building: Path, folder: Path) -> None:
    """Puts what was built in place of what an earlier recipe made. Raises UserError if something else is in the way.

    Killed between, it leaves a stamp that knows of all files and of no recipe, so that the next start continues.
    """
    new = read_stamp(building)
    assert new is not None
    old = read_stamp(folder)
    if old is None:
        building.rename(folder)
        return
    for name in new.files:
        if name not in old.files and (folder / name).exists():
            raise UserError(f"{folder / name} is in the way of the embedded dataset; move it away, or set data.root")
    write_stamp(folder, Stamp(None, {**old.files, **new.files}))
    for name in old.files.keys() - new.files.keys():
        (folder / name).unlink(missing_ok=True)
    for name in new.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (building / name).replace(folder / name)
    write_stamp(folder, new)


def _is_inside(name: str) -> bool:
    """Whether a file's name in a stamp is one that a recipe may have written."""
    first, *others = name.split("/")
    return first in PARTS and bool(others) and not {"", ".", ".."}.intersection(others)


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.name.endswith(".columns.csv") else None
