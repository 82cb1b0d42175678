"""Files of pictures before they are decoded: only regular ones of a sane size, since decoders wait for pipes, end the
process on absurd sizes, and take the memory that a header asks for."""

from __future__ import annotations

import os
import stat
import struct
import warnings
from typing import BinaryIO

from PIL import Image

MOST_PIXELS = 2**26  # 8192², a quarter of a gigabyte as RGBA
_PNG = b"\x89PNG\r\n\x1a\n"


class NoPicture(Exception):
    """There is something of the file's name that is not to be decoded; the message says why."""


def check_picture(path: str) -> None:
    """Raises NoPicture for what is no regular file, and for more than MOST_PIXELS by the file's header.

    What is missing or of no known format passes: decoders say so.
    """
    if "\0" in path:
        raise NoPicture("no file's name")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NoPicture("no regular file")
        width, height = _size(file)
    if width * height > MOST_PIXELS:
        raise NoPicture(f"{width}x{height} pixels, and more than {MOST_PIXELS} are not decoded")


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
        return MOST_PIXELS, MOST_PIXELS
    except Exception:  # Pillow raises of any kind for damaged headers
        return 0, 0
