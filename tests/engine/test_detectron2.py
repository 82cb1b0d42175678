"""The engine of detectron2 against detectron2 called directly."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

pytest.importorskip("detectron2", reason="detectron2 is not installed; docs/how-to/engines.md says how to get it")

import pycocotools.mask as coco

import backbones
from harness.data.sample import View
from harness.engine.contract import Engine
from harness.engine.detectron2.engine import build
from harness.errors import UserError
from methods.contract import LossKind, Need, Proposals, Scope
from tests.detector.small import generator, view
from tests.engine.detectron2_models import (
    CASCADE,
    FEDERATED,
    SMALL,
    configuration,
    direct_inputs,
    direct_losses,
    engine_of,
)

MODELS = {"standard": [], "cascade": CASCADE, "federated": FEDERATED, "cascade, federated": CASCADE + FEDERATED}


@pytest.fixture(scope="module")
def views() -> list[View]:
    return [view(1, pasted=2), view(2, pasted=0), view(3, pasted=4)]


@pytest.mark.parametrize("model", MODELS)
def test_losses_add_up_to_those_of_detectron2_called_directly(model: str, views: list[View]) -> None:
    engine = engine_of(*SMALL, *MODELS[model])
    table = engine.losses(views, Proposals.SAMPLED, generator(5))
    direct = direct_losses(engine, views, 5)
    assert list(table.losses) == list(direct)
    for name, expected in direct.items():
        torch.testing.assert_close(table.batch(name), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(table.total(), sum(direct.values()), rtol=1e-6, atol=0)


def test_a_resnet_50_of_the_model_zoo_gives_detectron2s_losses_gradients_and_detections() -> None:
    """The published configuration as it is, with few classes and a small image."""
    engine = engine_of(backbone="resnet50", config="LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    image = [view(1)]
    total = engine.losses(image, Proposals.SAMPLED, generator(5)).total()
    expected = sum(direct_losses(engine, image, 5).values())
    assert engine.channels == "BGR"
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    weights = engine.parameters(Scope.last)
    for own, other in zip(torch.autograd.grad(total, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-7)
    assert_same_detections(engine, image, (75, 110))


@pytest.mark.parametrize("model", ["standard", "cascade"])
def test_detections_are_those_of_detectron2_called_directly(model: str, views: list[View]) -> None:
    assert_same_detections(engine_of(*SMALL, *MODELS[model]), views, (75, 110))


def assert_same_detections(engine: Engine, views: list[View], size: tuple[int, int]) -> None:
    found = engine.predict([view.image for view in views], [size] * len(views))
    engine.module.eval()
    inputs = [
        {"image": each["image"], "height": size[0], "width": size[1]} for each in direct_inputs(views, engine.channels)
    ]
    with torch.no_grad():
        direct = [each["instances"] for each in engine.module(inputs)]
    assert sum(len(each) for each in direct) > 0
    for own, other in zip(found, direct, strict=True):
        assert torch.equal(own.boxes, other.pred_boxes.tensor)
        assert torch.equal(own.scores, other.scores)
        assert torch.equal(own.labels, other.pred_classes)
        assert (own.scores.diff() <= 0).all()
        masks = coco.decode(own.rles).transpose(2, 0, 1).astype(bool)
        assert np.array_equal(masks, other.pred_masks.numpy())


@pytest.mark.parametrize("model", MODELS)
def test_what_was_pasted_is_told_apart(model: str, views: list[View]) -> None:
    """Everything pasted and nothing pasted bound the parts; in between they are those of the foreground matched."""
    engine = engine_of(*SMALL, *MODELS[model])
    table = engine.losses(views, Proposals.SAMPLED, generator(5))
    heads = (LossKind.CLASSIFICATION, LossKind.BOX, LossKind.MASK)
    for name in table.names(*heads):
        loss = table.losses[name]
        assert loss.pasted is not None
        assert loss.pasted[1] == 0
        assert (loss.pasted <= loss.sum + 1e-6).all()
    every = [View(v.image, v.targets[torch.arange(len(v.targets))]) for v in views]
    for each in every:
        each.targets.pasted = torch.ones_like(each.targets.pasted)
    full = engine.losses(every, Proposals.SAMPLED, generator(5))
    for name in full.names(LossKind.BOX, LossKind.MASK):  # of foreground alone
        torch.testing.assert_close(full.losses[name].pasted, full.losses[name].sum)
    for name in full.names(LossKind.CLASSIFICATION):  # of background too
        assert (full.losses[name].pasted < full.losses[name].sum).all()


def pasted_of(views: list[View]) -> torch.Tensor:
    return pad_sequence([each.targets.pasted for each in views], batch_first=True)


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_told_apart_by_instance(model: str, views: list[View]) -> None:
    """Shares of what was pasted are the pasted part; boxes and masks have no other terms than those of instances."""
    engine = engine_of(*SMALL, *MODELS[model])
    assert Need.INSTANCE_ATTRIBUTION in engine.capabilities
    table = engine.losses(views, Proposals.SAMPLED, generator(5)).copied()
    for name, loss in table.losses.items():
        assert loss.instances.shape == (3, 4)
        if loss.pasted is not None:
            shares = (loss.instances * pasted_of(views)).sum(1)
            torch.testing.assert_close(shares, loss.pasted, rtol=1e-5, atol=1e-5)
        if not name.startswith(("loss_cls", "loss_rpn_cls")):
            torch.testing.assert_close(loss.instances.sum(1), loss.sum, rtol=1e-5, atol=1e-5)
    assert table.per_instance(LossKind.PROPOSAL)[0].sum() > 0


@pytest.mark.parametrize("model", MODELS)
def test_an_ignored_instance_counts_in_no_loss(model: str, views: list[View]) -> None:
    """With ground truth as the only proposals, leaving it out gives what its absence from the targets gives."""
    engine = engine_of(*SMALL, *MODELS[model])
    pasted = pasted_of(views)
    found = engine.losses(views, Proposals.GROUND_TRUTH, generator(5)).selected(~pasted)
    bare = [View(each.image, each.targets[~each.targets.pasted]) for each in views]
    for name, expected in engine.losses(bare, Proposals.GROUND_TRUTH, generator(5)).losses.items():
        torch.testing.assert_close(found.losses[name].sum, expected.sum, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.losses[name].count, expected.count)
    nothing = engine.losses(views, Proposals.SAMPLED, generator(5)).selected(torch.zeros(3, 4, dtype=torch.bool))
    boxes = [loss.sum.abs().max() for loss in nothing.losses.values() if loss.kind in (LossKind.BOX, LossKind.MASK)]
    assert max(boxes) < 1e-5
    gradients = torch.autograd.grad(nothing.total(), engine.parameters(Scope.heads), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("override", "known"), [("MODEL.KEYPOINT_ON=True", False), ("MODEL.MASK_ON=False", True)])
def test_a_model_with_a_part_that_is_not_known_by_instance_says_so(override: str, known: bool) -> None:
    assert (Need.INSTANCE_ATTRIBUTION in engine_of(*SMALL, override).capabilities) == known


def test_the_backbone_s_features_are_of_its_last_level() -> None:
    found = engine_of(*SMALL).backbone_features([view(1).image[:, :64, :64]] * 2)
    assert found.shape == (2, 256, 2, 2)


def test_every_image_is_judged_alone(views: list[View]) -> None:
    """An image's sums do not depend on the other images of the batch."""
    engine = engine_of(*SMALL, *CASCADE)
    together = engine.losses(views, Proposals.GROUND_TRUTH, generator(5), backbone_in_eval=True)
    for i, each in enumerate(views):
        alone = engine.losses([each], Proposals.GROUND_TRUTH, generator(5), backbone_in_eval=True)
        for name, loss in alone.losses.items():
            torch.testing.assert_close(loss.sum[0], together.losses[name].sum[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(loss.pasted[0], together.losses[name].pasted[i], rtol=1e-4, atol=1e-5)
            assert loss.count[0] == together.losses[name].count[i]


def test_ground_truth_proposals_are_the_instances_and_all_classes_count(views: list[View]) -> None:
    engine = engine_of(*SMALL, *FEDERATED)
    table = engine.losses(views, Proposals.GROUND_TRUTH, generator(5))
    assert not table.names(LossKind.PROPOSAL)
    instances = torch.tensor([float(len(v.targets)) for v in views])
    assert torch.equal(table.losses["loss_cls"].count, instances)
    plain = engine_of(*SMALL, FEDERATED[0])
    plain.module.load_state_dict(engine.module.state_dict(), strict=False)
    expected = plain.losses(views, Proposals.GROUND_TRUTH, generator(5))
    torch.testing.assert_close(table.total(), expected.total())
    assert engine.losses(views, Proposals.GROUND_TRUTH, generator(6)).total() == table.total()


def test_an_image_without_instances_has_losses_too() -> None:
    empty = view(1)
    bare = View(empty.image, empty.targets[torch.zeros(len(empty.targets), dtype=torch.bool)])
    engine = engine_of(*SMALL, *CASCADE)
    for proposals in Proposals:
        total = engine.losses([bare, view(2)], proposals, generator(5)).total()
        assert total.isfinite()
    assert engine.losses([bare], Proposals.SAMPLED, generator(5)).total().isfinite()


def test_the_model_is_left_as_it_was(views: list[View]) -> None:
    engine = engine_of(*SMALL, *CASCADE, *FEDERATED)
    before = {name: set(vars(module)) for name, module in engine.module.named_modules()}
    for proposals in Proposals:
        engine.losses(views, proposals, generator(5))
    engine.predict([views[0].image], [(96, 96)])
    assert {name: set(vars(module)) for name, module in engine.module.named_modules()} == before


def test_classes_beyond_the_datasets_own_are_not_predicted() -> None:
    engine = engine_of(*SMALL, classes=9, counted=6)
    found = engine.predict([view(1).image], [(96, 96)])[0]
    assert len(found.labels) > 0
    assert found.labels.max() < 6


def test_a_lazy_configuration_is_built_with_our_classes(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(
        "from detectron2.config import LazyCall as L\n"
        "from detectron2 import model_zoo\n"
        "model = model_zoo.get_config('common/models/mask_rcnn_fpn.py').model\n"
        "train = dict(init_checkpoint='')\n"
    )
    engine = engine_of("model.roi_heads.batch_size_per_image=16", config=str(path))
    assert engine.module.roi_heads.num_classes == 6
    assert engine.module.roi_heads.batch_size_per_image == 16
    table = engine.losses([view(1)], Proposals.SAMPLED, generator(5))
    torch.testing.assert_close(table.total(), sum(direct_losses(engine, [view(1)], 5).values()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_weights_are_loaded_by_name(ending: str, tmp_path: Path, views: list[View]) -> None:
    engine, other = engine_of(*SMALL), engine_of(*SMALL)
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.add_(0.01)
    path = tmp_path / f"model.{ending}"
    state = engine.module.state_dict()
    if ending == "pkl":
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}))
    else:
        torch.save({"model": state, "iteration": 3}, path)
    assert "0 missing" in other.load(path)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.module.state_dict().values(), strict=True))


def test_a_backbones_weights_are_found_by_their_ends(tmp_path: Path) -> None:
    """As detectron2's own ImageNet files are: names without the trunk's stem."""
    zoo = "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    slim = [*SMALL, "MODEL.RESNETS.DEPTH=18", "MODEL.RESNETS.RES2_OUT_CHANNELS=64"]
    source = engine_of(*slim, config=zoo)
    trunk = {k: v + 0.5 for k, v in source.module.backbone.bottom_up.state_dict().items()}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in trunk.items()}, "matching_heuristics": True}))
    loaded = engine_of(*slim, f"MODEL.WEIGHTS={path}", config=zoo)
    found = loaded.module.backbone.bottom_up.state_dict()
    assert all(torch.equal(found[k], v) for k, v in trunk.items() if "num_batches" not in k)
    with pytest.raises(UserError, match="holds only a backbone"):
        source.load(path)


@pytest.mark.parametrize(
    ("config", "overrides", "words"),
    [
        ("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_2x.yaml", [], "did you mean 'LVISv1-Inst"),
        (None, ["MODEL.RESNET.DEPTH=18"], "did you mean 'MODEL.RESNETS.DEPTH'"),
        (None, ["MODEL.RESNETS.DEPTH"], "not KEY=VALUE"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(config: str | None, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        engine_of(*overrides, config=config)


def test_an_assertion_without_words_is_given_its_place(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("MODEL: {BACKBONE: {NAME: build_resnet_fpn_backbone}}")
    with pytest.raises(UserError, match=r"model\.yaml: AssertionError: .*fpn\.py, line \d+: assert"):
        engine_of(config=str(tmp_path / "model.yaml"))


def test_a_model_without_region_heads_says_what_it_cannot_do() -> None:
    """Its normaliser is a running mean: each of the two calls gets a fresh model."""
    views = [view(1), view(2)]
    engine, other = (engine_of(config="COCO-Detection/retinanet_R_50_FPN_1x.yaml", backbone="resnet50") for _ in "ab")
    assert engine.capabilities == frozenset()
    table = engine.losses(views, Proposals.SAMPLED, generator(5))
    torch.testing.assert_close(table.total(), sum(direct_losses(other, views, 5).values()), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="pasted"):
        table.pasted_total()


def test_a_torchvision_resnet_fits_detectron2_s_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    member = backbones.find("resnet50")()
    state = {name: value + 0.25 for name, value in member.build([4, 8, 16, 32]).state_dict().items()}
    path = tmp_path / "resnet50.pth"
    torch.save(state | {"fc.weight": torch.zeros(2)}, path)
    zoo = "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    trunk = engine_of(*SMALL, config=zoo, weights=path).module.backbone.bottom_up
    assert torch.equal(trunk.res3[0].shortcut.norm.running_mean, state["layer2.0.downsample.1.running_mean"])
    assert torch.equal(trunk.stem.conv1.weight, state["conv1.weight"])
    assert "MODEL.RESNETS.STRIDE_IN_1X1=False" in caplog.text
    caplog.clear()
    fitted = [
        "MODEL.RESNETS.STRIDE_IN_1X1=False",
        "INPUT.FORMAT=RGB",
        "MODEL.PIXEL_MEAN=[123.675,116.28,103.53]",
        "MODEL.PIXEL_STD=[58.395,57.12,57.375]",
    ]
    engine_of(*SMALL, *fitted, config=zoo, weights=path)
    assert "Caffe" not in caplog.text
    with pytest.raises(UserError, match=r"lacks \d+ of \d+ tensors of this backbone"):
        engine_of(*SMALL, "MODEL.RESNETS.DEPTH=101", config=zoo, weights=path)


def test_without_a_pyramid_a_resnet_s_last_stage_is_loaded_into_the_head(tmp_path: Path) -> None:
    state = {name: value + 0.25 for name, value in backbones.find("resnet50")().build([32]).state_dict().items()}
    path = tmp_path / "resnet50.pth"
    torch.save(state, path)
    module = engine_of(config="COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", weights=path).module
    assert torch.equal(module.roi_heads.res5[2].conv3.weight, state["layer4.2.conv3.weight"])
    assert torch.equal(module.backbone.res4[5].conv3.weight, state["layer3.5.conv3.weight"])
    torch.save({"model": module.state_dict()}, path)
    again = engine_of(config="COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", weights=path).module
    assert torch.equal(again.roi_heads.res5[2].conv3.weight, state["layer4.2.conv3.weight"])


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_without_a_configuration_the_backbone_is_the_native_one(backbone: str, tmp_path: Path) -> None:
    """Its weights are read as by the native engine, and are not of another architecture."""
    member = backbones.find(backbone)()
    native = member.build([4, 8, 16, 32])
    path = tmp_path / "trunk.pth"
    torch.save(native.state_dict(), path)
    trunk = engine_of(*SMALL, backbone=backbone, weights=path).module.backbone.bottom_up.trunk
    assert all(torch.equal(value, native.state_dict()[name]) for name, value in trunk.state_dict().items())


def test_a_backbone_without_all_levels_is_refused() -> None:
    with pytest.raises(UserError, match="strides"):
        engine_of(*SMALL, backbone="swin_mini")


def test_norms_over_all_ranks_are_refused_where_there_are_several() -> None:
    config = configuration(*SMALL, "MODEL.FPN.NORM=SyncBN")
    build(config, 6, np.arange(1, 7))
    config.schedule.global_batch = 2
    with pytest.raises(UserError, match="batch norm across ranks"):
        build(config, 6, np.arange(1, 7))


def test_the_model_can_be_copied_for_an_average_of_its_weights(views: list[View]) -> None:
    engine = engine_of(*SMALL, *CASCADE)
    engine.losses(views, Proposals.SAMPLED, generator(5)).total().backward()
    average = torch.optim.swa_utils.AveragedModel(engine.module)
    average.update_parameters(engine.module)
    assert average.module.state_dict().keys() == engine.module.state_dict().keys()
