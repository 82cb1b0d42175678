"""COCO's compressed form of run lengths, for many masks at once."""

from __future__ import annotations

import numpy as np

MOST_CHARACTERS = 7  # of a number below 2^32, five bits each


def compressed(counts: np.ndarray, lengths: np.ndarray) -> list[str]:
    """The strings of masks whose run lengths follow one another in `counts` (R,) int64, `lengths` (k,) per mask.

    From the fourth on, a run length is stored as its difference from the one before the last; each number is written in
    characters of five bits and a mark that more follow. Source: rleToString of pycocotools.
    """
    ends = np.cumsum(lengths)
    place = np.arange(len(counts)) - np.repeat(ends - lengths, lengths)
    rest = counts.copy()
    later = np.flatnonzero(place > 2)
    rest[later] -= counts[later - 2]
    characters = np.zeros((len(counts), MOST_CHARACTERS), np.uint8)
    written = np.zeros(characters.shape, bool)
    going = np.ones(len(counts), bool)
    for i in range(MOST_CHARACTERS):
        low = rest & 31
        rest >>= 5
        more = rest != np.where(low & 16, -1, 0)
        characters[:, i] = low + 32 * more + 48
        written[:, i] = going
        going &= more
    text = characters[written].tobytes().decode("ascii")
    stops = np.cumsum(written.sum(1))[ends - 1].tolist()
    return [text[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
