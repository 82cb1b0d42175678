"""Where the pixels of a pool's instance come from."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]  # where a file begins in an archive, and how many bytes it has


@dataclass(frozen=True)
class FileSource:
    """A generated image: RGBA, or RGB with its mask in a second file. `isolated`: cut to its instance already.

    archive: the packed pool that both files lie in, at `span` and `mask_span`; None there for one that it lacks.
    """

    path: str
    mask_path: str | None = None
    isolated: bool = False
    archive: str | None = None
    span: Span | None = None
    mask_span: Span | None = None


@dataclass(frozen=True)
class AnnotationSource:
    """An instance of a training image, both as indices into the annotations."""

    image: int
    annotation: int
