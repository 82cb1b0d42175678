"""Folders of submitit's pickles: reading one executes it, so they are the user's own, and nobody else writes there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def private_folder(folder: Path) -> Iterator[None]:
    """Makes a folder into which nobody else can write; nor into the files that are made meanwhile. All may read."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    earlier = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(earlier)


def is_private(path: Path) -> bool:
    """Whether a file or folder is the user's own, and nobody else can write to it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS
