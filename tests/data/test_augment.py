"""Views of training images: geometry of image and outlines, and targets against COCO's rasterisation."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from harness.data.augment import draw_jitter, evaluation_size, resize
from harness.data.sample import Masks
from harness.data.targets import visible_instances


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.floats(0.1, 2.0), st.integers(0, 2**32 - 1))
def test_a_jitter_fits_its_target(height: int, width: int, scale: float, seed: int) -> None:
    jitter = draw_jitter((height, width), (64, 96), (scale, scale), True, np.random.default_rng(seed))
    assert jitter.size[0] <= 64
    assert jitter.size[1] <= 96
    assert 0 <= jitter.offset[0] <= jitter.scaled[1] - jitter.size[1]
    assert 0 <= jitter.offset[1] <= jitter.scaled[0] - jitter.size[0]
    factor = min(scale * 64 / height, scale * 96 / width)
    assert jitter.factor == factor
    assert jitter.scaled == (max(1, int(height * factor)), max(1, int(width * factor)))
    view = jitter.image(np.zeros((height, width, 3), np.uint8))
    assert view.shape == (*jitter.size, 3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.9])
def test_masks_follow_the_image(small, scale: float, flip: bool) -> None:
    """Rasterising moved outlines inside their windows gives what COCO gives over the whole view."""
    known = small.annotations
    for image in range(6):
        size = int(known.heights[image]), int(known.widths[image])
        jitter = draw_jitter(size, (96, 96), (scale, scale), flip, np.random.default_rng(image))
        found = {(i.label, i.extent): i for i in visible_instances(known, image, jitter)}
        expected = 0
        span = known.annotations_of(image)
        for index in range(span.start, span.stop):
            first, last = known.polygon_offsets[index : index + 2]
            bounds = known.point_offsets[first : last + 1]
            polygons = [jitter.points(known.coordinates[a:b]) for a, b in pairwise(bounds)]
            mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, *jitter.size)))
            if not mask.any():
                continue
            expected += 1
            ys, xs = np.nonzero(mask)
            box = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
            instance = found[int(known.annotation_categories[index]), box]
            assert (instance.mask == mask[box[1] : box[3], box[0] : box[2]]).all()
        assert len(found) == expected


def test_masks_cover_the_pixels_of_their_object(small) -> None:
    """An object painted through its annotation is where its moved mask says, up to its rim."""
    known = small.annotations
    image = int(known.annotation_images[np.argmax(known.areas)])
    size = int(known.heights[image]), int(known.widths[image])
    span = known.annotations_of(image)
    for seed in range(4):
        jitter = draw_jitter(size, (96, 96), (0.6, 1.8), True, np.random.default_rng(seed))
        for instance in visible_instances(known, image, jitter):
            own = [i for i in range(span.start, span.stop) if known.annotation_categories[i] == instance.label]
            if len(own) > 1 or instance.mask.sum() < 100:
                continue
            first, last = known.point_offsets[known.polygon_offsets[own[0]] : known.polygon_offsets[own[0]] + 2]
            painted = np.zeros((*size, 3), np.uint8)
            cv2.fillPoly(painted, [known.coordinates[first:last].reshape(-1, 2).astype(np.int32)], (255, 255, 255))
            moved = jitter.image(painted)[..., 0] > 127
            x0, y0, x1, y1 = instance.extent
            full = np.zeros(jitter.size, bool)
            full[y0:y1, x0:x1] = instance.mask
            assert (full & moved).sum() / (full | moved).sum() > 0.75


def test_full_masks_round_trip() -> None:
    masks = np.zeros((3, 12, 9), np.uint8)
    masks[0, 2:5, 3:9] = 1
    masks[1, 11, 8] = 1
    masks[2] = 1
    import torch

    assert (Masks.from_full(torch.from_numpy(masks)).full().numpy() == masks).all()


def test_evaluation_size() -> None:
    assert evaluation_size(480, 640, 800, 1333) == (800, 1067)
    assert evaluation_size(480, 1280, 800, 1333) == (500, 1333)
    image = np.zeros((48, 64, 3), np.uint8)
    assert resize(image, (80, 107)).shape == (80, 107, 3)
    assert resize(image, (48, 64)) is image
