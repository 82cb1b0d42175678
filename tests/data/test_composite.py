"""Compositing against hand-made and full-canvas results, and its properties on random pastes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import Blending
from harness.data.paste.composite import BOX_TOLERANCE, MIN_VISIBLE, hide, lay
from harness.data.targets import Instance, tightened, to_targets


def cutout(height: int, width: int, color: tuple[int, int, int], alpha: int = 255) -> np.ndarray:
    """RGBA of one colour."""
    return np.broadcast_to(np.array([*color, alpha], np.uint8), (height, width, 4)).copy()


def test_a_paste_composited_by_hand() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    rgba = cutout(2, 2, (10, 20, 30))
    rgba[0, 0, 3] = 0
    mask, x, y = lay(image, rgba, (3, 1), Blending.basic)
    expected = np.zeros((4, 5, 3), np.uint8)
    for row, column in ((1, 4), (2, 3), (2, 4)):
        expected[row, column] = 10, 20, 30
    assert (image == expected).all()
    assert (x, y) == (3, 1)
    assert mask.tolist() == [[0, 1], [1, 1]]


def test_alpha_blending_by_hand() -> None:
    image = np.full((3, 3, 3), 100, np.uint8)
    lay(image, cutout(1, 1, (200, 0, 50), alpha=51), (1, 1), Blending.alpha)
    assert image[1, 1].tolist() == [120, 80, 90]  # a fifth of the way
    assert (np.delete(image.reshape(9, 3), 4, 0) == 100).all()


def test_gaussian_blending_mixes_by_the_blurred_mask() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    lay(image, cutout(1, 1, (250, 250, 250)), (4, 4), Blending.gaussian)
    assert (image[2:7, 2:7] == 10).all()  # one pixel in twenty-five
    image[2:7, 2:7] = 0
    assert not image.any()


@pytest.mark.parametrize(("corner", "shape"), [((-3, -1), (1, 1)), ((4, 3), (1, 1)), ((-1, 1), (2, 3))])
def test_a_paste_is_cut_at_the_border(corner: tuple[int, int], shape: tuple[int, int]) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    mask, x, y = lay(image, cutout(2, 4, (1, 1, 1)), corner, Blending.basic)
    assert mask.shape == shape
    assert (image[y : y + shape[0], x : x + shape[1]] == 1).all()
    assert image.any(2).sum() == mask.size


def test_outside_or_transparent_nothing_is_drawn() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    assert lay(image, cutout(2, 2, (9, 9, 9)), (4, 0), Blending.basic) is None
    assert lay(image, cutout(2, 2, (9, 9, 9), alpha=0), (1, 1), Blending.gaussian) is None
    assert not image.any()


def block(x: int, y: int, width: int, height: int, label: int = 0) -> Instance:
    return Instance(np.ones((height, width), np.uint8), x, y, label)


def test_an_instance_wholly_covered_leaves() -> None:
    assert hide([block(2, 2, 3, 3)], np.ones((9, 9), np.uint8), 0, 0) == []


def test_an_untouched_instance_is_the_same_object() -> None:
    apart = block(20, 20, 5, 5)
    assert hide([apart], np.ones((9, 9), np.uint8), 0, 0)[0] is apart


def test_the_occlusion_rule_at_its_limits() -> None:
    """A bar of 6 pixels height: cut from the right, its box moves by as much as is covered."""
    bar = block(0, 0, 40, 6)
    for covered, stays in ((BOX_TOLERANCE, True), (BOX_TOLERANCE + 1, False)):
        left = hide([bar], np.ones((6, covered), np.uint8), 40 - covered, 0)
        assert bool(left) is stays
        if stays:
            assert left[0].box == (0, 0, 40 - covered, 6)
    tall = block(0, 0, 40, MIN_VISIBLE // 20 + 1)  # 20 columns of it have just over 300 pixels
    assert len(hide([tall], np.ones((99, 20), np.uint8), 20, 0)) == 1
    exact = block(0, 0, 40, MIN_VISIBLE // 20)
    assert hide([exact], np.ones((99, 20), np.uint8), 20, 0) == []


def test_hiding_does_not_change_the_original_mask() -> None:
    bar = block(0, 0, 8, 8)
    hide([bar], np.ones((2, 2), np.uint8), 3, 3)
    assert bar.mask.all()


# --------------------------------------------------------------------------------------------------------- properties


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray], list[tuple[int, int]], Blending]:
    """An image and cut-outs with random alpha, one-pixel slivers among them, on, across and off the border."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    cutouts, corners = [], []
    for _ in range(draw(st.integers(1, 5))):
        h, w = draw(st.integers(1, 50)), draw(st.integers(1, 50))
        rgba = rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
        rgba[..., 3] *= cv2.blur(rng.random((h, w)), (5, 5)) > 0.5
        cutouts.append(rgba)
        corners.append((draw(st.integers(-50, width + 2)), draw(st.integers(-50, height + 2))))
    return image, cutouts, corners, draw(st.sampled_from(Blending))


def compose(image: np.ndarray, cutouts: list, corners: list, blending: Blending) -> tuple[np.ndarray, list[Instance]]:
    canvas, shown = image.copy(), []
    for row, (rgba, corner) in enumerate(zip(cutouts, corners, strict=True)):
        laid = lay(canvas, rgba, corner, blending)
        if laid is not None:
            mask, x, y = laid
            shown = hide(shown, mask, x, y)
            pasted = tightened(Instance(mask, x, y, 0, row))
            assert pasted is not None
            shown.append(pasted)
    return canvas, shown


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_properties(scene: tuple) -> None:
    image, cutouts, corners, blending = scene
    canvas, shown = compose(*scene)
    height, width = image.shape[:2]
    # The whole canvas, with every mask at full size: the slow way to the same.
    reach = 2 if blending is Blending.gaussian else 0
    touched = np.zeros((height + 200, width + 200), np.uint8)
    full = np.zeros((height, width), int) - 1
    for label, (rgba, (x, y)) in enumerate(zip(cutouts, corners, strict=True)):
        alone = np.zeros_like(touched)
        alone[100 + y : 100 + y + rgba.shape[0], 100 + x : 100 + x + rgba.shape[1]] = rgba[..., 3] > 0
        inside = alone[100 : 100 + height, 100 : 100 + width]
        full[inside > 0] = label
        within = np.zeros_like(alone)
        within[100 : 100 + height, 100 : 100 + width] = inside
        touched |= cv2.dilate(within, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    outside = touched[100 : 100 + height, 100 : 100 + width] == 0
    assert (canvas[outside] == image[outside]).all()

    targets = to_targets(shown, (height, width))
    masks = targets.masks.full().numpy()
    assert masks.shape == (len(shown), height, width)
    assert (masks.sum(0) <= 1).all()  # no two overlap
    for instance, mask, box in zip(shown, masks, targets.boxes.tolist(), strict=True):
        # What shows of an instance is what no later one covers; wholly hidden ones have no target.
        assert (mask == (full == instance.pool_row)).all()
        assert mask.any()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    if blending is Blending.basic:
        for row, rgba in enumerate(cutouts):
            ys, xs = np.nonzero(full == row)
            x, y = corners[row]
            assert (canvas[ys, xs] == rgba[ys - y, xs - x, :3]).all()
    again, _ = compose(*scene)
    assert (again == canvas).all()
