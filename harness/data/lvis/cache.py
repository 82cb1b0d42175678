"""Annotations loaded: read once, then kept as one .npy file an array, which opens in milliseconds and whose pages
processes share."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from harness.data.fingerprint import fingerprint
from harness.data.lvis.annotations import Annotations
from harness.data.lvis.parse import read_json
from harness.data.lvis.tenth import tenth
from harness.errors import UserError, not_written

LAYOUT = 3  # part of the folder's name: another layout never reads these files
DOWNLOAD = "LVIS annotations are at https://www.lvisdataset.org/dataset, COCO 2017 images at https://cocodataset.org"


def load_tenth(path: Path, cache: Path) -> Annotations:
    """The fixed tenth of an LVIS training file (`harness.data.lvis.tenth`), kept in `cache` like the whole one.

    Raises UserError as `load_annotations`.
    """
    folder = cache / f"lvis-{fingerprint(path)[:16]}-tenth-{LAYOUT}"
    if not folder.is_dir():
        _write(tenth(load_annotations(path, cache)), folder)
    return Annotations.mapped(folder)


def load_annotations(path: Path, cache: Path | None = None) -> Annotations:
    """Reads an LVIS annotation file.

    With `cache`, a folder, the arrays are kept there under the file's fingerprint and memory-mapped from then on.
    Raises UserError for a file that is missing, is cut off, lacks a key, or names unknown images or categories, and
    when the cache cannot be written.
    """
    path = Path(path)
    if not path.is_file():
        at_fault = path if path.parent.is_dir() else path.parent
        raise UserError(f"{at_fault} does not exist, and should hold the annotations {path.name}: {DOWNLOAD}")
    if cache is None:
        return read_json(path)
    folder = cache / f"lvis-{fingerprint(path)[:16]}-{LAYOUT}"
    if not folder.is_dir():
        _write(read_json(path), folder)
    return Annotations.mapped(folder)


def _write(annotations: Annotations, folder: Path) -> None:
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for name in Annotations.array_names():
            np.save(temporary / f"{name}.npy", getattr(annotations, name))
        temporary.chmod(0o755)  # mkdtemp's 0700 would shut out colleagues who share the dataset folder
        os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, with the same contents
            raise not_written(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
