"""Reading the long lists of a JSON file piece by piece: LVIS's holds 1 GB of text, which as objects takes ten."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError

PIECE = 2**22  # bytes read at a time
KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*\Z')
OPENING, CLOSING = (np.isin(np.arange(256), list(each)) for each in (b"[{", b"]}"))


def read_lists(path: Path, names: Collection[str]) -> Iterator[tuple[str, list[Any]]]:
    """The entries of the named lists of a file that holds one JSON object, some thousand at a time, in its order.

    Raises UserError for a file that cannot be read, is not valid JSON, or lacks one of the lists.
    """
    reader = _Lists(path, names)
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield from reader.feed(piece)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    reader.finish()


class _Lists:
    """Splits text at the brackets outside strings.

    `rest` is what has been read and not handed on, from byte `start` of the file on. What is left of the file without
    the entries of the named lists makes `frame`, which must be valid by itself.
    """

    def __init__(self, path: Path, names: Collection[str]) -> None:
        self.path, self.names = path, names
        self.rest, self.start = b"", 0
        self.depth, self.in_string, self.backslashes = 0, False, 0
        self.section: str | None = None  # that the text is inside of
        self.fresh = True  # nothing of the section has been handed on
        self.frame: list[tuple[int, bytes]] = []  # with the byte of the file that each part begins at

    def feed(self, piece: bytes) -> Iterator[tuple[str, list[Any]]]:
        offset = len(self.rest)
        self.rest += piece
        places, depths = self._brackets(piece)
        cut, ends = 0, -1  # of what is handed on; the last entry's end
        for place, depth in zip((places + offset).tolist(), depths.tolist(), strict=True):
            if self.section is None:
                opens = depth == 2 and self.rest[place] == ord("[")
                key = KEY.search(self.rest, cut, place) if opens else None
                if key is not None and (name := key[1].decode(errors="replace")) in self.names:
                    self._frame(cut, place + 1)
                    self.section, self.fresh, cut, ends = name, True, place + 1, -1
            elif depth == 2:
                ends = place + 1
            elif depth == 1:
                if entries := self._entries(cut, place):
                    yield self.section, entries
                self.section, cut = None, place
        if self.section is not None and ends > cut:
            yield self.section, self._entries(cut, ends)
            cut = ends
        self.rest, self.start = self.rest[cut:], self.start + cut

    def finish(self) -> None:
        import orjson

        if self.section is not None:
            raise self._invalid(self.start + len(self.rest), "unexpected end of data")
        self._frame(0, len(self.rest))
        text = b"".join(part for _, part in self.frame)
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            at = error.pos
            for begin, part in self.frame:
                if at <= len(part):
                    raise self._invalid(begin + at, error.msg) from error
                at -= len(part)
            raise
        for name in self.names:
            if not isinstance(content, dict) or not isinstance(content.get(name), list):
                raise UserError(f"{self.path}: has no list {name!r}; expected an LVIS annotation file")

    def _brackets(self, piece: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Where lists of the object or their entries begin or end in the next piece, and how deep the text is then."""
        text = np.frombuffer(piece, np.uint8)
        quotes = np.flatnonzero(text == ord('"'))
        if b"\\" in piece or self.backslashes:
            quotes = quotes[[self._counts(piece, int(place)) for place in quotes]]
        toggles = np.zeros(len(text), np.uint8)
        toggles[quotes] = 1
        if self.in_string:
            toggles[0] ^= 1
        inside = np.bitwise_xor.accumulate(toggles).view(bool)
        opening, closing = OPENING[text], CLOSING[text]
        places = np.flatnonzero((opening | closing) & ~inside)
        depths = self.depth + np.cumsum(np.where(opening[places], 1, -1))
        self.depth = int(depths[-1]) if len(depths) else self.depth
        self.in_string = bool(inside[-1])
        trailing = len(piece) - len(piece.rstrip(b"\\"))
        self.backslashes = trailing + (self.backslashes if trailing == len(piece) else 0)
        outer = depths <= 2
        return places[outer], depths[outer]

    def _counts(self, piece: bytes, place: int) -> bool:
        """Whether a quotation mark begins or ends a string: after an even number of backslashes it does."""
        before = place
        while before and piece[before - 1] == ord("\\"):
            before -= 1
        return (place - before + (0 if before else self.backslashes)) % 2 == 0

    def _entries(self, start: int, end: int) -> list[Any]:
        import orjson

        text, skipped = self.rest[start:end], 0
        if not self.fresh and text.strip():
            skipped = len(text) - len(text.lstrip()) + 1
            if text[skipped - 1 : skipped] != b",":
                raise self._invalid(self.start + start + skipped - 1, "expected a comma between entries")
            text = text[skipped:]
        try:
            entries: list[Any] = orjson.loads(b"[" + text + b"]")
        except orjson.JSONDecodeError as error:
            raise self._invalid(self.start + start + skipped + error.pos - 1, error.msg) from error
        self.fresh = self.fresh and not entries
        return entries

    def _frame(self, start: int, end: int) -> None:
        self.frame.append((self.start + start, self.rest[start:end]))

    def _invalid(self, place: int, message: str) -> UserError:
        line, column = 1, place + 1
        with self.path.open("rb") as file:
            while place > 0 and (piece := file.read(min(PIECE, place))):
                place -= len(piece)
                line += piece.count(b"\n")
                if b"\n" in piece:
                    column = place + len(piece) - piece.rfind(b"\n")
        where = f"line {line}, column {column} of {self.path.stat().st_size} bytes"
        return UserError(
            f"{self.path}: invalid JSON at {where}: {message}; the file may be truncated: download it again"
        )
