"""1000 random draws each of resizing, boxes, copy-paste and hiding against the published rules on whole canvases."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.augment import draw_jitter, resize
from harness.data.images import TrainingImages
from harness.data.paste.area_statistics import area_statistics
from harness.data.paste.composite import hide
from harness.data.paste.paster import Paster
from harness.data.targets import Instance, outlined_targets, tightened, to_targets, visible_instances
from harness.detector.mask_head import drawn_in
from methods.contract import Draw, PasteRule
from tests.data import published_rules as published

DRAWS = 1000
SIDE = 96


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Texture of all scales, as in photographs, with noise."""
    layers = [cv2.resize(rng.normal(0, 90 / k, (k * 4, k * 4, 3)), (width, height)) for k in (1, 4, 16)]
    return np.clip(sum(layers) + 128 + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def test_resizing_is_pillow_s_to_one_in_255() -> None:
    rng = np.random.default_rng(0)
    pictures = [picture(rng, *size) for size in ((90, 120), (120, 90), (64, 64), (127, 31))]
    worst = 0
    for _ in range(DRAWS):
        image = pictures[rng.integers(len(pictures))]
        factor = rng.uniform(0.05, 2.5)
        size = max(1, int(image.shape[0] * factor)), max(1, int(image.shape[1] * factor))
        expected = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        worst = max(worst, int(np.abs(resize(image, size).astype(int) - expected).max()))
    assert worst <= 1


@pytest.fixture(scope="module")
def images(small) -> TrainingImages:
    return TrainingImages(small.annotations, small.paths.images)


def jittered(small, images: TrainingImages, index: int, scales: tuple[float, float], seed: int):
    """Our view and the published one, from the same draws."""
    known, image = small.annotations, images.read(index)
    jitter = draw_jitter(image.shape[:2], (SIDE, SIDE), scales, True, np.random.default_rng(seed))
    other = published.view(known, index, image, SIDE, scales, True, np.random.default_rng(seed))
    return jitter.image(image), visible_instances(known, index, jitter), other


def assert_equal(image: np.ndarray, instances: list[Instance], other: published.Canvas) -> None:
    targets = to_targets(instances, image.shape[:2])
    assert image.shape == other.image.shape
    assert np.abs(image.astype(int) - other.image).max() <= 1
    np.testing.assert_allclose(targets.boxes.numpy(), other.boxes, atol=1e-4)
    assert targets.labels.tolist() == other.labels.tolist()
    assert np.array_equal(targets.masks.full().numpy().astype(bool), other.masks)


def test_views_have_the_annotations_boxes(small, images: TrainingImages) -> None:
    rng = np.random.default_rng(1)
    beyond = 0
    for seed in range(DRAWS):
        image, instances, other = jittered(small, images, int(rng.integers(40)), (0.1, 2.0), seed)
        assert_equal(image, instances, other)
        beyond += sum(instance.box != instance.extent for instance in instances)
    assert beyond > DRAWS


def test_copy_paste_is_the_published_one(small, images: TrainingImages) -> None:
    known, pool = small.annotations, small.facts.instance_pool()
    config = replace(small.config(None).data, size=SIDE, scale_min=0.1, scale_max=2.0)
    paster = Paster(pool, images, area_statistics(known), config)
    rng = np.random.default_rng(2)
    pasted = grown = gone = 0
    for seed in range(DRAWS):
        image, instances, below = jittered(small, images, int(rng.integers(40)), (0.1, 2.0), seed)
        home = int(rng.integers(40))
        rows = np.arange(*known.image_offsets[home : home + 2])
        draw = Draw(rows=rows, rules=PasteRule.AS_IT_LIES, categories=pool.categories[rows], at_most=99)
        canvas, shown, _ = paster.paste(image, instances, draw, np.random.default_rng(DRAWS + seed))
        others = np.random.default_rng(DRAWS + seed)
        above = published.view(known, home, images.read(home), SIDE, (0.1, 2.0), True, others)
        expected = published.copy_paste(below, above, others)
        assert_equal(canvas, shown, expected)
        found = [instance.pool_row for instance in shown]
        assert found == (expected.annotations.tolist() if expected is not below else [-1] * len(found))
        pasted += expected is not below
        grown += canvas.shape != image.shape
        gone += len(shown) - sum(row >= 0 for row in found) < len(instances)
    assert pasted > 0.7 * DRAWS
    assert min(grown, gone) > 0.1 * DRAWS


def test_hiding_follows_the_occlusion_rule() -> None:
    rng = np.random.default_rng(3)
    gone = 0
    for _ in range(DRAWS):
        masks, instances, boxes = [], [], []
        for label in range(3):
            mask = np.zeros((60, 70), np.uint8)
            centre, axes = rng.integers(0, 60, 2).tolist(), rng.integers(2, 25, 2).tolist()
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            instance = tightened(Instance(mask, 0, 0, label))
            if instance is None:
                continue
            reach = np.round(rng.uniform(-1, 1, 4) * rng.choice([0, 3, 12]), 2)
            box = tuple((np.array(instance.extent) + reach).tolist())
            instances.append(replace(instance, annotated=box if rng.random() < 0.8 else None))
            boxes.append(instances[-1].box)
            masks.append(mask.astype(bool))
        if not masks:
            continue
        h, w = rng.integers(1, 40, 2).tolist()
        y, x = int(rng.integers(0, 60 - h + 1)), int(rng.integers(0, 70 - w + 1))
        over = (rng.random((h, w)) < rng.choice([0.3, 1.0])).astype(np.uint8)
        cover = np.zeros((60, 70), bool)
        cover[y : y + h, x : x + w] = over
        shown = hide(instances, over, x, y)
        left, moved, stays = published.hidden(np.array(masks), np.array(boxes, float).reshape(-1, 4), cover)
        assert [instance.label for instance in shown] == [instances[i].label for i in stays]
        targets = to_targets(shown, (60, 70))
        assert np.array_equal(targets.masks.full().numpy().astype(bool), left)
        np.testing.assert_array_equal(targets.boxes.numpy(), moved)
        gone += len(instances) - len(shown)
    assert gone > 100


def test_targets_from_polygons(small, images: TrainingImages) -> None:
    """Boxes as in the view, masks drawn in any region's grid, also of an instance of which no pixel shows."""
    known = small.annotations
    rng = np.random.default_rng(4)
    compared = 0
    for seed in range(DRAWS // 5):
        index = int(rng.integers(40))
        size = int(known.heights[index]), int(known.widths[index])
        jitter = draw_jitter(size, (SIDE, SIDE), (0.1, 2.0), True, np.random.default_rng(seed))
        targets = outlined_targets(known, index, jitter)
        instances = visible_instances(known, index, jitter)
        if not len(targets):
            continue
        shown = targets.masks.full().flatten(1).bool().any(1)
        np.testing.assert_allclose(targets.boxes[shown], to_targets(instances, jitter.size).boxes)
        assert targets.masks.full().sum() == sum(int(instance.mask.sum()) for instance in instances)
        each = rng.integers(len(targets), size=5)
        corner = rng.uniform(-5, SIDE, (5, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0.01, 60, (5, 2))], 1).astype(np.float32)
        found = drawn_in(targets.masks, torch.from_numpy(each), torch.from_numpy(boxes), 28)
        for mask, instance, box in zip(found.numpy(), each.tolist(), boxes.astype(float), strict=True):
            polygons = targets.masks.polygons_of(instance)
            assert np.array_equal(mask, published.polygon_target(polygons, box, 28))
            compared += bool(mask.any())
    assert compared > 100
