"""Checks of picture files before they are decoded: decoders wait on pipes, abort the process on absurd sizes, and
allocate whatever a header asks for, so only regular files of a sane size pass."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from harness.errors import UserError
from harness.record.reading import regular_file

MOST_PIXELS = "BSGAL_BENCH_MOST_PIXELS"  # the variable that sets the limit
USUAL_MOST = 2**26  # 8192², a quarter of a gigabyte as RGBA
BYTES_A_PIXEL = 16  # twice what a file of 16-bit RGBA takes that is not compressed
_PNG = b"\x89PNG\r\n\x1a\n"


class NoPicture(Exception):
    """The file exists but must not be decoded; the message says why."""


def most_pixels() -> int:
    """The most pixels of a picture: BSGAL_BENCH_MOST_PIXELS, else USUAL_MOST. Raises UserError if it is no number."""
    chosen = os.environ.get(MOST_PIXELS, str(USUAL_MOST))
    if not chosen.isdecimal() or not 1 <= int(chosen) <= 2**31:
        raise UserError(f"{MOST_PIXELS}={chosen}: expected a number of pixels, usually {USUAL_MOST} and at most 2^31")
    return int(chosen)


def read_picture(path: str) -> bytes | None:
    """A picture file's content, checked by `check_encoded`; None if it cannot be opened.

    Raises NoPicture, also for anything but a regular file.
    """
    if "\0" in path:
        raise NoPicture("no file's name")
    try:
        with regular_file(path) as file:
            if file is None:
                raise NoPicture("no regular file")
            size = os.fstat(file.fileno()).st_size
            if size > BYTES_A_PIXEL * most_pixels():
                raise NoPicture(f"{size} bytes, and {most_pixels()} pixels take fewer; {MOST_PIXELS} sets the limit")
            content = file.read(size)
    except OSError:
        return None
    check_encoded(content)
    return content


def check_encoded(content: bytes) -> None:
    """Raises NoPicture for more than `most_pixels` in a picture's header. Unknown formats pass: the decoder reports
    them."""
    width, height = _size(content)
    if width * height > most_pixels():
        raise NoPicture(
            f"{width}x{height} pixels, and more than {most_pixels()} are not decoded; {MOST_PIXELS} sets the limit"
        )


def decode(content: bytes | None, flags: int) -> np.ndarray | None:
    """(H, W) or (H, W, channels) by OpenCV, `flags` being its IMREAD_*; None for what is no picture."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None


def read_rgb(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 of a picture file; None if it is missing or OpenCV cannot decode it.

    Raises UserError that names a file which must not be decoded.
    """
    try:
        return decode(read_picture(str(path)), cv2.IMREAD_COLOR_RGB)
    except NoPicture as fault:
        raise UserError(f"{path} is not an image: {fault}") from fault


def _size(content: bytes) -> tuple[int, int]:
    """Width and height by the header; (0, 0) where it is none that is known."""
    if len(content) >= 24 and content.startswith(_PNG):
        width, height = struct.unpack_from(">II", content, 16)
        return width, height
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            return image.size
    except Image.DecompressionBombError:
        return 2**16, 2**16
    except Exception:  # Pillow raises of any kind for damaged headers
        return 0, 0
