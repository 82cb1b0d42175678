"""Fingerprints of files: what a result was made from, by content, whatever the path."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from harness.config import cache_folder
from harness.errors import UserError


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file's contents, as 64 hexadecimal digits.

    Remembered in the user's cache folder under the path, size, inode and time of modification, so that an unchanged
    file of any size is hashed once. Raises UserError when the file cannot be read.
    """
    path = Path(path)
    try:
        stat = path.stat()
        stamp: list[str | int] = [str(path.resolve()), stat.st_size, stat.st_ino, stat.st_mtime_ns]
        memo = cache_folder() / "fingerprints" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
        known = _remembered(memo, stamp)
        if known is not None:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    _remember(memo, stamp, digest)
    return digest


def _remembered(memo: Path, stamp: list[str | int]) -> str | None:
    try:
        entry = json.loads(memo.read_text())
        return entry["sha256"] if entry["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memo: Path, stamp: list[str | int], digest: str) -> None:
    # A home folder that cannot be written only costs time, so it is no error.
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memo.parent, suffix=".tmp", delete=False) as file:
            json.dump({"stamp": stamp, "sha256": digest}, file)
        os.replace(file.name, memo)
    except OSError:
        return
