"""Checks that come before pycocotools, whose C code trusts what it is given: run lengths that do not add up to the
image hang it for ever, and absurd coordinates and sizes crash it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

MOST_PIXELS = 2**29 - 1  # of an image, and so of a run length: six digits and a sign
FARTHEST = 1e5  # of a polygon's coordinates from the image's corner, in pixels; C code traces every fifth of a pixel
BLOCK = 100_000  # bytes decoded at a time, which stay in the cache
MOST_DIGITS = 6  # of a run length, five bits each


def size_fault(height: Any, width: Any) -> str:
    """Why this is not an image's size; empty if it is."""
    if not all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in (height, width)):
        return f"size {[height, width]} is not a pair of integers"
    if height < 1 or width < 1 or int(height) * int(width) > MOST_PIXELS:
        return f"size {[int(height), int(width)]} is not the size of an image"
    return ""


def polygon_fault(polygons: Sequence[Sequence[Any]]) -> str:
    """Why pycocotools would not read these polygons; empty if it would."""
    if not polygons or not all(isinstance(polygon, list) for polygon in polygons):
        return "no list of polygons"
    lengths = [len(polygon) for polygon in polygons]
    for length in lengths:
        if length < 4 or length % 2:
            return f"a polygon of {length} numbers; expected x, y pairs"
    try:
        numbers = np.fromiter(chain.from_iterable(polygons), np.float64, sum(lengths))
    except (TypeError, ValueError) as error:
        return f"a polygon holds something other than numbers ({error})"
    far = numbers[~(np.abs(numbers) <= FARTHEST)]
    return f"a polygon has the coordinate {far[0]}" if len(far) else ""


def list_fault(counts: Sequence[Any], pixels: int) -> str:
    """Why these uncompressed run lengths do not describe an image of `pixels` pixels; empty if they do."""
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return "run lengths that are not integers of at least 0"
    return "" if sum(counts) == pixels else f"run lengths that add up to {sum(counts)} of {pixels} pixels"


def first_fault(counts: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> tuple[int, str] | None:
    """The first invalid one of N compressed masks, and why; None if all are valid.

    counts uint8; mask i's are counts[offsets[i] : offsets[i + 1]], with offsets (N + 1,); pixels (N,) of its image.
    """
    for begin, end in _blocks(offsets):
        first, last = int(offsets[begin]), int(offsets[end])
        fault = _block_fault(counts[first:last], offsets[begin : end + 1] - first, pixels[begin:end])
        if fault is not None:
            return begin + fault[0], fault[1]
    return None


def _blocks(offsets: np.ndarray) -> Iterable[tuple[int, int]]:
    begin, masks = 0, len(offsets) - 1
    while begin < masks:
        end = int(np.searchsorted(offsets, offsets[begin] + BLOCK, side="right")) - 1
        end = min(max(end, begin + 1), masks)
        yield begin, end
        begin = end


def _block_fault(counts: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> tuple[int, str] | None:
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        return int(empty[0]), "no run lengths"
    digits = counts - np.uint8(48)  # smaller ones wrap to large ones
    if digits.max() > 63:
        return _mask(offsets, digits.argmax()), "run lengths with an invalid character"
    open_ended = np.flatnonzero(digits[offsets[1:] - 1] & 0x20)
    if len(open_ended):
        return int(open_ended[0]), "run lengths that are cut off"
    ends = np.flatnonzero(digits < 0x20).astype(np.int32)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    extra = ends - starts
    if extra.max() >= MOST_DIGITS:
        return _mask(offsets, ends[extra.argmax()]), "a run length too long for any image"
    first = np.searchsorted(ends, offsets[:-1])
    runs = _decoded(digits, starts, extra, first)
    if runs.min() < 0:
        return _mask(offsets, ends[runs.argmin()]), "a negative run length"
    total = np.add.reduceat(runs, first, dtype=np.int64)
    wrong = np.flatnonzero(total != pixels)
    if len(wrong):
        return int(wrong[0]), f"run lengths that add up to {total[wrong[0]]} of {pixels[wrong[0]]} pixels"
    return None


def _mask(offsets: np.ndarray, place: np.integer) -> int:
    """The index of the mask that a byte belongs to."""
    return int(np.searchsorted(offsets, place, side="right")) - 1


def _decoded(digits: np.ndarray, starts: np.ndarray, extra: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(R,) int32 run lengths, of which each mask's begin at `first` (N,).

    A number is 1 + `extra` digits from `starts` on, five bits each, lowest first, the last one's fifth bit its sign;
    from a mask's fourth number on, it is added to the last but one.
    """
    values = (digits[starts] & 0x1F).astype(np.int32)
    negative = values >= 0x10
    place, longer = 0, np.flatnonzero(extra)
    while len(longer):
        place += 1
        more = (digits[starts[longer] + place] & 0x1F).astype(np.int32)
        values[longer] |= more << (5 * place)
        negative[longer] = more >= 0x10
        longer = longer[extra[longer] > place]
    values[negative] -= np.int32(32) << (5 * extra[negative])
    # Two running sums, of every other number, each less what it was where the mask begins; they may wrap, and back.
    heads = values[first]
    values[first] = 0
    runs: np.ndarray = np.empty_like(values)
    runs[0::2], runs[1::2] = (np.cumsum(values[parity::2], dtype=np.int32) for parity in (0, 1))
    begin = np.stack([runs[first], np.where(first > 0, runs[first - 1], 0)], axis=1)
    lengths = np.diff(first, append=len(runs))
    pairs = np.repeat(begin, (lengths + 1) // 2, axis=0).ravel()  # one too many where a mask has an odd number
    if len(pairs) > len(runs):
        surplus = np.cumsum(lengths + lengths % 2)[lengths % 2 == 1] - 1
        pairs = np.delete(pairs, surplus)
    runs -= pairs
    runs[first] = heads
    return runs
