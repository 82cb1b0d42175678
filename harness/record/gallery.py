"""A few pictures that a run leaves for reports: what it finds in validation images, and instances that it judged.

    gallery/gallery.json      images: file, width, height, truth and found, each a list of category and outline, found
                              with score; instances: file, category, accepted, contribution (null where there is none),
                              clean (null where the truth is not known)
            <image id>.jpg    a validation image, the same ones for all runs over a dataset
            pool-<row>.png    an instance of the pool

Outlines are lists of polygons, x, y, x, y, ... in pixels of the picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.record.files import write_atomically, write_json

FOLDER = "gallery"


def write_gallery(folder: Path, content: dict[str, Any], pictures: dict[str, bytes]) -> None:
    """Into a run's folder; `pictures` by file name."""
    for name, encoded in pictures.items():
        with write_atomically(folder / FOLDER / name) as path:
            path.write_bytes(encoded)
    write_json(folder / FOLDER / "gallery.json", content)


def read_gallery(folder: Path) -> dict[str, Any] | None:
    """From a run's folder; None where it has left none."""
    path = folder / FOLDER / "gallery.json"
    return json.loads(path.read_bytes()) if path.is_file() else None
