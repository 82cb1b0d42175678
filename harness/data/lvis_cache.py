"""Annotations on disk as one .npy file an array, so that they open in milliseconds and processes share their pages."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from harness.data.fingerprint import fingerprint
from harness.data.lvis import Annotations, read_json
from harness.errors import UserError

LAYOUT = 1  # part of the folder's name: another layout never reads these files
ARRAYS = tuple(item.name for item in fields(Annotations) if item.name != "cache")


def load_cached(path: Path, cache: Path) -> Annotations:
    """The annotations of `path` from the folder `cache`, written there first when it lacks them.

    Raises UserError as `load_annotations`, and when the folder cannot be written.
    """
    folder = cache / f"lvis-{fingerprint(path)[:16]}-{LAYOUT}"
    if not folder.is_dir():
        _write(read_json(path), folder)
    return open_cache(folder)


def open_cache(folder: Path) -> Annotations:
    """Maps a written folder read-only. Raises UserError when one of its files is missing or damaged."""
    try:
        # np.asarray drops the memmap subclass, whose slicing is slower; the mapping stays alive as the base.
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS}
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder}: damaged annotation cache ({error}); delete the folder") from error
    return Annotations(**arrays, cache=folder)


def _write(annotations: Annotations, folder: Path) -> None:
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(annotations, name))
        temporary.chmod(0o755)  # mkdtemp's 0700 would shut out colleagues who share the dataset folder
        os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, with the same contents
            raise UserError(f"{folder}: the annotation cache cannot be written ({error.strerror})") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
