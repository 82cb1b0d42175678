"""The native detector against figures of the published code (README.md beside this file)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from harness.config import Precision
from harness.data.sample import Targets
from harness.detector.centernet2 import CenterNet2
from harness.detector.ground_truth import padded
from harness.engine.native import NativeEngine
from harness.weights.published_names import is_optional, published
from tests.golden import published_detector as made

SIZES = [(256, 320), (224, 256)]
START = {"centernet2_r50": (1, 11), "centernet2_swinl": (1, 11), "heldout_r50": (2, 500), "heldout_swinl": (3, 700)}
FILES = made.golden_files(*START)
LOSS, PIXELS, SCORE, FEATURE = 1e-4, 0.01, 1e-4, 1e-4


@dataclass
class Case:
    figures: dict[str, np.ndarray]
    module: CenterNet2
    images: list[Tensor]
    targets: list[Targets]
    features: list[Tensor]


def start_of(file: Path) -> tuple[int, int]:
    """Salt and first seed, by the file's name; a held-back file's name may go on."""
    return next(start for name, start in START.items() if file.name.startswith(name))


@cache
def case(file: Path) -> Case:
    torch.set_num_threads(1)
    salt, seed = start_of(file)
    module = made.detector("swin_l" if "swin" in file.name else "resnet50", salt)
    module.sampler, module.federated = made.keep_all, made.federated_by_rule
    images = [made.image(h, w, seed + i) for i, (h, w) in enumerate(SIZES)]
    targets = [made.targets(h, w, seed + i, 6) for i, (h, w) in enumerate(SIZES)]
    module.eval()
    with torch.no_grad():
        features = module.features(module.batch(images))
    with np.load(file) as stored:
        return Case(dict(stored), module, images, targets, features)


pytestmark = pytest.mark.timeout(900)
each_file = pytest.mark.parametrize(
    "file",
    [pytest.param(f, id=f.stem, marks=[pytest.mark.slow] if "swin" in f.name else []) for f in FILES],
)


def test_the_shipped_files_are_there() -> None:
    assert {f.stem for f in FILES} >= {"centernet2_r50", "centernet2_swinl"}


@each_file
def test_names_and_shapes(file: Path) -> None:
    shapes = dict(str(entry).split(" ", 1) for entry in case(file).figures["state_dict_keys"])
    resnet = "swin" not in file.name
    mine = {
        published(name, resnet=resnet): str(tuple(t.shape))
        for name, t in case(file).module.state_dict().items()
        if not is_optional(name)
    }
    assert mine == {name: shape for name, shape in shapes.items() if not is_optional(name)}


@each_file
def test_features(file: Path) -> None:
    figures = case(file).figures
    for level, feature in enumerate(case(file).features, 3):
        for key, value in (("mean", feature.mean((2, 3))), ("std", feature.std((2, 3)))):
            np.testing.assert_allclose(value, figures[f"feat.p{level}.{key}"], rtol=FEATURE, atol=FEATURE)


@each_file
def test_proposals(file: Path) -> None:
    c = case(file)
    network = c.module.proposal_network.eval()
    with torch.no_grad():
        found = network.propose(network(c.features), training=False)
    for i, (boxes, scores) in enumerate(found):
        assert_same_boxes(boxes, scores, c.figures[f"proposals.{i}.boxes"], c.figures[f"proposals.{i}.scores"])


@each_file
def test_predictions(file: Path) -> None:
    c = case(file)
    engine = NativeEngine(c.module, Precision.fp32, channels_last=False)
    for i, found in enumerate(engine.predict(c.images, SIZES)):
        figures = {key: c.figures[f"pred.{i}.{key}"] for key in ("boxes", "scores", "classes", "mask_area")}
        order = assert_same_boxes(found.boxes, found.scores, figures["boxes"], figures["scores"])
        np.testing.assert_array_equal(found.labels[order], figures["classes"])
        # Areas one by one: pycocotools overflows on a list of more than 255 with NumPy 2.
        area = np.array([coco.area(rle) for rle in found.rles])[order]
        # These masks are flat, so a pixel on the threshold to the last digits may fall on either side of it.
        assert np.abs(area - figures["mask_area"]).max() <= 2
        assert (area == figures["mask_area"]).mean() > 0.97


@each_file
def test_proposal_losses(file: Path) -> None:
    c = case(file)
    c.module.train()
    c.module.backbone.eval()
    network = c.module.proposal_network
    losses = network.losses(network(c.features), padded(c.targets, SIZES, torch.float32))
    for name, loss in losses.items():
        value = loss.sum.sum() / loss.count.sum().clamp(min=1)
        assert value.item() == pytest.approx(c.figures[f"loss.proposal.{name}"].item(), rel=LOSS), name
    assert {f"loss.proposal.{name}" for name in losses} == {k for k in c.figures if k.startswith("loss.proposal.")}


@each_file
def test_roi_losses(file: Path) -> None:
    c = case(file)
    c.module.train()
    proposals = [torch.from_numpy(c.figures[f"roi.{i}.proposals"]) for i in range(len(SIZES))]
    truth = padded(c.targets, SIZES, torch.float32)
    losses = c.module.roi_losses(c.features, proposals, c.targets, truth, torch.Generator())
    for name, loss in losses.items():
        value = loss.sum.sum() / loss.count.sum().clamp(min=1)
        assert value.item() == pytest.approx(c.figures[f"loss.roi.{name}"].item(), rel=LOSS), name
    assert {f"loss.roi.{name}" for name in losses} == {k for k in c.figures if k.startswith("loss.roi.")}


def assert_same_boxes(boxes: Tensor, scores: Tensor, golden_boxes: np.ndarray, golden_scores: np.ndarray) -> np.ndarray:
    """Compares boxes in the order of their scores; returns our indices in the golden order.

    Where scores are equal to the tolerance, either order is right: such neighbours are paired by their boxes.
    """
    assert len(boxes) == len(golden_boxes)
    np.testing.assert_allclose(scores, golden_scores, atol=SCORE, rtol=0)
    found, numbers, free = boxes.numpy(), scores.double().numpy(), np.ones(len(boxes), dtype=bool)
    order = []
    for box, score in zip(golden_boxes, golden_scores, strict=True):
        near = np.flatnonzero(free & (np.abs(numbers - score) <= SCORE))
        best = near[np.abs(found[near] - box).max(1).argmin()]
        np.testing.assert_allclose(found[best], box, atol=PIXELS, rtol=0)
        free[best] = False
        order.append(best)
    return np.array(order)
