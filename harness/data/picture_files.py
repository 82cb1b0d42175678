"""Checks of picture files before they are decoded: decoders wait on pipes, abort the process on absurd sizes, and
allocate whatever a header asks for, so only regular files of a sane size pass."""

from __future__ import annotations

import io
import os
import struct
import warnings
from typing import BinaryIO

from PIL import Image

from harness.errors import UserError
from harness.record.reading import regular_file

MOST_PIXELS = "BSGAL_BENCH_MOST_PIXELS"  # the variable that sets the limit
USUAL_MOST = 2**26  # 8192², a quarter of a gigabyte as RGBA
_PNG = b"\x89PNG\r\n\x1a\n"


class NoPicture(Exception):
    """The file exists but must not be decoded; the message says why."""


def most_pixels() -> int:
    """The most pixels of a picture: BSGAL_BENCH_MOST_PIXELS, else USUAL_MOST. Raises UserError if it is no number."""
    chosen = os.environ.get(MOST_PIXELS, str(USUAL_MOST))
    if not chosen.isdecimal() or not 1 <= int(chosen) <= 2**31:
        raise UserError(f"{MOST_PIXELS}={chosen}: expected a number of pixels, usually {USUAL_MOST} and at most 2^31")
    return int(chosen)


def check_picture(path: str) -> None:
    """Raises NoPicture for anything but a regular file, and for more than `most_pixels` in the file's header.

    Missing files and unknown formats pass: the decoder reports them.
    """
    if "\0" in path:
        raise NoPicture("no file's name")
    try:
        with regular_file(path) as file:
            if file is None:
                raise NoPicture("no regular file")
            _check(file)
    except OSError:
        return


def check_encoded(content: bytes) -> None:
    """Like `check_picture`, for a file's content."""
    _check(io.BytesIO(content))


def _check(file: BinaryIO) -> None:
    width, height = _size(file)
    if width * height > most_pixels():
        raise NoPicture(
            f"{width}x{height} pixels, and more than {most_pixels()} are not decoded; {MOST_PIXELS} sets the limit"
        )


def _size(file: BinaryIO) -> tuple[int, int]:
    """Width and height by the header; (0, 0) where it is none that is known."""
    head = file.read(24)
    if len(head) == 24 and head.startswith(_PNG):
        width, height = struct.unpack(">II", head[16:])
        return width, height
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            return image.size
    except Image.DecompressionBombError:
        return 2**16, 2**16
    except Exception:  # Pillow raises of any kind for damaged headers
        return 0, 0
