"""The native engine: predictions on the image on disk, extra classes, loading, and engines by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torchvision.ops import batched_nms

from harness.compose import compose
from harness.config import EngineConfig, Precision, RunConfig
from harness.detector import centernet2
from harness.detector.centernet2 import best_after_suppression
from harness.engine import ENGINES, capabilities, create
from harness.errors import UserError
from methods.contract import Need, Proposals
from tests.detector.small import SIZE, generator, small_engine, view


def test_predictions_are_in_the_image_on_disk() -> None:
    engine = small_engine(score_threshold=0.01)
    images = [view(0).image, view(1, size=(64, 90)).image]
    sizes = [(SIZE * 2, SIZE * 2), (128, 270)]
    for found, (height, width) in zip(engine.predict(images, sizes), sizes, strict=True):
        assert 0 < len(found.boxes) == len(found.scores) == len(found.labels) == len(found.rles) <= 40
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 2] <= width).all()
        assert (found.boxes[:, 3] <= height).all()
        assert found.boxes[:, 2].max() > width / 2
        assert (found.scores.diff() <= 0).all()
        assert (found.labels < 12).all()
        for box, rle in zip(found.boxes.numpy(), found.rles, strict=True):
            assert rle["size"] == [height, width]
            x, y, w, h = coco.toBbox(rle)
            if w * h:
                assert x >= np.floor(box[0]) - 1
                assert y + h <= np.ceil(box[3]) + 1


def test_scaling_scales_boxes() -> None:
    engine = small_engine(score_threshold=0.01)
    image = view(0).image
    (same,), (twice,) = engine.predict([image], [(SIZE, SIZE)]), engine.predict([image], [(SIZE * 2, SIZE * 3)])
    torch.testing.assert_close(same.boxes * torch.tensor([3.0, 2, 3, 2]), twice.boxes)
    torch.testing.assert_close(same.scores, twice.scores)


def test_extra_classes_are_trained_and_never_predicted() -> None:
    engine = small_engine(classes=20, counted=12, score_threshold=0.0)
    with torch.no_grad():
        for predictor in engine.module.cascade.box_predictor:
            predictor.cls_score.bias[12:] = 5.0  # type: ignore[union-attr, index]
    (found,) = engine.predict([view(0).image], [(SIZE, SIZE)])
    assert len(found.labels) > 20
    assert (found.labels < 12).all()
    extra = view(0)
    extra.targets.labels = extra.targets.labels * 0 + 17
    table = engine.losses([extra], Proposals.GROUND_TRUTH, generator())
    weight = engine.module.cascade.box_predictor[0].cls_score.weight  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(table.total(), [weight])  # type: ignore[list-item]
    assert gradient[17].abs().sum() > 0
    assert gradient[20].abs().sum() == 0  # the background column that only published files need


def test_suppression_of_the_best_equals_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = generator()
    corner = torch.rand(4000, 2, generator=rng) * 100
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(4000, 2, generator=rng)], 1)
    scores = (torch.rand(4000, generator=rng) * 500).round() / 500  # with ties
    labels = torch.randint(0, 7, (4000,), generator=rng)
    for count, first in ((50, 1001), (300, 1001), (300, 5000), (4000, 1001)):
        monkeypatch.setattr(centernet2, "FIRST_CANDIDATES", first)
        mine = best_after_suppression(boxes, scores, labels, 0.5, count)
        every = batched_nms(boxes, scores, labels, 0.5)[:count]
        torch.testing.assert_close(scores[mine], scores[every])
        above = scores[every] > scores[every][-1]
        assert set(mine[above].tolist()) == set(every[above].tolist())


def test_nothing_found_is_an_empty_prediction() -> None:
    engine = small_engine(score_threshold=0.999)
    (found,) = engine.predict([view(0).image], [(SIZE, SIZE)])
    assert found.boxes.shape == (0, 4)
    assert found.rles == []


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert capabilities("native") == frozenset(Need)
    with pytest.raises(UserError, match="did you mean 'native'"):
        capabilities("natve")
    for name, origin in list(ENGINES.items()):
        monkeypatch.setitem(ENGINES, name, replace(origin, package="a_package_that_is_nowhere"))
        with pytest.raises(UserError, match=rf"{name}.*pip install"):
            create(RunConfig(engine=EngineConfig(name=name)), 3, np.ones(3, np.int64))


def test_detector_and_backbone_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="stride 4, 8"):
        small_engine(strides=[2, 4, 8])
    with pytest.raises(UserError, match="size_ranges"):
        small_engine(size_ranges=[[0.0, 10.0]])


def test_an_engine_loads_what_it_is_given(tmp_path: Path) -> None:
    first, second = small_engine(), small_engine()
    with torch.no_grad():
        for parameter in first.module.parameters():
            parameter.add_(0.01)
    torch.save({"model": first.module.state_dict()}, tmp_path / "w.pt")
    assert "tensors loaded" in second.load(tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))


def test_prediction_is_in_full_precision_as_published() -> None:
    """Unless the heads are in mixed precision too, as in the embedded dataset's detector."""
    full, half, mixed = (
        small_engine(precision=precision, autocast_heads=heads).predict([view(0).image], [(SIZE, SIZE)])[0]
        for precision, heads in ((Precision.fp32, False), (Precision.bf16, False), (Precision.bf16, True))
    )
    assert torch.equal(full.scores, half.scores)
    assert torch.equal(full.boxes, half.boxes)
    assert not torch.equal(full.scores, mixed.scores)


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_to_tolerance() -> None:
    """Forward in both modes of the backbone, and backward twice through one graph, as methods go."""
    plain, compiled = small_engine(), small_engine()
    compiled.compile()
    views = [view(0), view(1)]
    for in_eval in (False, True):
        tables = [
            engine.losses(views, Proposals.GROUND_TRUTH, generator(), backbone_in_eval=in_eval)
            for engine in (plain, compiled)
        ]
        for one, other in zip(*(table.trace for table in tables), strict=True):  # type: ignore[misc]
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        for again in (True, False):
            gradients = [
                torch.autograd.grad(table.total(), list(engine.module.backbone.parameters()), retain_graph=again)
                for engine, table in zip((plain, compiled), tables, strict=True)
            ]
            for one, other in zip(*gradients, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for one, other in zip(plain.module.state_dict().items(), compiled.module.state_dict().items(), strict=True):
        assert one[0] == other[0]
        torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5)
    image = view(2, size=(64, 90)).image
    (one,), (other,) = (engine.predict([image], [(64, 90)]) for engine in (plain, compiled))
    torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"schedule\.compile needs engine=native, not mmdet"):
        compose(["engine=mmdet", "schedule.compile=true"])
