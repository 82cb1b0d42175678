"""What pycocotools must never be handed is found, and nothing that it makes is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from harness.data.lvis import rle
from harness.data.lvis.rle import first_fault, list_fault, polygon_fault, size_fault

pytestmark = pytest.mark.timeout(60)


def encoded(masks: list[np.ndarray]) -> tuple[list[bytes], np.ndarray]:
    counts = [mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks]
    return counts, np.array([mask.size for mask in masks])


def fault(counts: list[bytes], pixels: np.ndarray) -> tuple[int, str] | None:
    offsets = np.concatenate([[0], np.cumsum(list(map(len, counts)))])
    return first_fault(np.frombuffer(b"".join(counts), np.uint8), offsets, pixels)


def made_masks(seed: int, count: int) -> list[np.ndarray]:
    """Noise, rectangles, empty and full masks of any size."""
    rng = np.random.default_rng(seed)
    masks = []
    for kind in rng.integers(0, 4, count):
        mask = np.zeros(rng.integers(1, 200, 2), bool)
        y, x = rng.integers(0, mask.shape)
        mask[y * (kind != 3) :, x * (kind != 3) :] = kind > 0
        masks.append(rng.random(mask.shape) < 0.4 if kind == 1 else mask)
    return masks


@given(st.integers(0, 2**32 - 1), st.sampled_from([50, 1000, 1_000_000]))
def test_masks_of_pycocotools_are_good_and_one_pixel_off_is_not(seed: int, block: int) -> None:
    counts, pixels = encoded(made_masks(seed, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "BLOCK", block)
        assert fault(counts, pixels) is None
        place = seed % 12
        wrong = pixels.copy()
        wrong[place] -= 1
        found = fault(counts, wrong)
        assert found is not None
        assert found == (place, f"run lengths that add up to {pixels[place]} of {wrong[place]} pixels")


@given(st.integers(0, 2**32 - 1), st.data())
def test_a_mask_changed_anywhere_is_good_only_where_its_runs_still_add_up(seed: int, data: st.DataObject) -> None:
    """Bytes replaced, cut off and repeated; the truth by a decoder of one number at a time."""
    counts, pixels = encoded(made_masks(seed, 3))
    changed = bytearray(counts[1])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(40, 120))
    cut = data.draw(st.integers(0, len(changed)))
    tried = bytes(changed[:cut]) * data.draw(st.sampled_from([1, 1, 2]))
    found = fault([counts[0], tried, counts[2]], pixels)
    runs = slowly_decoded(tried)
    if runs and min(runs) >= 0 and sum(runs) == pixels[1]:
        assert found is None
    else:
        assert found is not None
        assert found[0] == 1


def slowly_decoded(counts: bytes) -> list[int]:
    """Empty where it is no encoding."""
    runs: list[int] = []
    digits = [byte - 48 for byte in counts]
    while digits:
        value = shift = 0
        while True:
            if not digits or not 0 <= digits[0] <= 63 or shift > 25:
                return []
            digit = digits.pop(0)
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                break
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([3 * 20], "run lengths that add up to 60 of 20 pixels"),
        ([0, 3 * 20], "run lengths that add up to 60 of 20 pixels"),
        ([5, 5], "run lengths that add up to 10 of 20 pixels"),
        ([-5, 25], "run lengths that are not integers of at least 0"),
        ([10.0, 10], "run lengths that are not integers of at least 0"),
    ],
)
def test_run_lengths_as_a_list(counts: list, text: str) -> None:
    assert list_fault(counts, 20) == text
    assert list_fault([0, 20], 20) == list_fault([7, 3, 10], 20) == ""


@pytest.mark.parametrize(
    ("polygons", "text"),
    [
        ([[0, 0, 5, 0, 5, 2.0**31]], "a polygon has the coordinate 2147483648.0"),
        ([[0, 0, 5, 0, float("nan"), 5]], "a polygon has the coordinate nan"),
        ([[0, 0, 5, 0, 5, -(2**31)]], "a polygon has the coordinate -2147483648.0"),
        ([[0, 0, 5]], "a polygon of 3 numbers; expected x, y pairs"),
        ([[0, 0, "x", 0, 5, 5]], "a polygon holds something other than numbers"),
        ([], "no list of polygons"),
        ([3, 4], "no list of polygons"),
    ],
)
def test_polygons(polygons: list, text: str) -> None:
    assert polygon_fault(polygons).startswith(text)
    assert polygon_fault([[0, 0, 5.5, 0, 5, 5]]) == ""


@pytest.mark.parametrize("size", [(0, 5), (-3, 5), (2**20, 2**20), (2**31, 1), (5.0, 5), ("5", 5), (True, 5)])
def test_sizes(size: tuple) -> None:
    assert size_fault(*size) != ""
    assert size_fault(480, 640) == ""
