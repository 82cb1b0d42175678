"""Where the pixels of a pool's instance come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileSource:
    """A generated image: RGBA, or RGB with its mask in a second file. `isolated`: cut to its instance already."""

    path: str
    mask_path: str | None = None
    isolated: bool = False


@dataclass(frozen=True)
class AnnotationSource:
    """An instance of a training image, both as indices into the annotations."""

    image: int
    annotation: int
