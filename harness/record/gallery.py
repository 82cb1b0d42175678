"""A few pictures that a run leaves for reports: what it finds in validation images, and instances that it judged.

    gallery/gallery.json      images: file, width, height, truth and found, each a list of category and outline, found
                              with score; instances: file, category, accepted, contribution (null if there is none),
                              clean (null where the truth is not known)
            <image id>.jpg    a validation image, the same ones for all runs over a dataset
            pool-<row>.png    an instance of the pool

Outlines are lists of polygons, x, y, x, y, ... in pixels of the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from harness.record.files import write_atomically, write_json
from harness.record.reading import Damaged, Label, read_bytes, read_json

FOLDER = "gallery"
MOST_BYTES = 2**24  # of a picture
_BEGINNINGS = {".jpg": b"\xff\xd8\xff", ".png": b"\x89PNG\r\n\x1a\n"}

_File = Annotated[str, StringConstraints(pattern=r"^\w[\w-]{0,99}\.(jpg|png)$")]  # beside gallery.json, nowhere else
_Figure = Annotated[float, Field(allow_inf_nan=False)]


class _Outline(TypedDict):
    category: Label
    outline: list[list[_Figure]]
    score: NotRequired[_Figure]


class _Image(TypedDict):
    file: _File
    width: Annotated[int, Field(ge=1, le=2**16)]
    height: Annotated[int, Field(ge=1, le=2**16)]
    truth: list[_Outline]
    found: list[_Outline]


class _Instance(TypedDict):
    file: _File
    category: Label
    accepted: bool
    contribution: _Figure | None
    clean: bool | None


class _Gallery(TypedDict):
    images: list[_Image]
    instances: list[_Instance]


def write_gallery(folder: Path, content: dict[str, Any], pictures: dict[str, bytes]) -> None:
    """Into a run's folder; `pictures` by file name."""
    for name, encoded in pictures.items():
        with write_atomically(folder / FOLDER / name) as path:
            path.write_bytes(encoded)
    write_json(folder / FOLDER / "gallery.json", content)


def read_gallery(folder: Path) -> dict[str, Any] | None:
    """From a run's folder; None if it has left none. Raises Damaged."""
    found: dict[str, Any] | None = read_json(folder / FOLDER / "gallery.json", _Gallery, "a gallery", "delete it")
    return found


def read_picture(folder: Path, name: str) -> bytes:
    """One of a run's gallery, as it is encoded. Raises Damaged for what is no picture of that name."""
    path = folder / FOLDER / name
    content = read_bytes(path, MOST_BYTES)
    if content is None or not content.startswith(_BEGINNINGS[path.suffix]):
        raise Damaged(f"{path} is not an image; delete the folder")
    return content
