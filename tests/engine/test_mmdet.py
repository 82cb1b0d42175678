"""The mmdet engine against mmdet called directly."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

pytest.importorskip("mmdet", reason="mmdet is not installed: pip install 'bsgal-bench[mmdet]'")

import backbones
from harness.config import Precision
from harness.data.lvis.cache import load_annotations
from harness.data.sample import View
from harness.engine import create
from harness.engine.mmdet.engine import MmdetEngine
from harness.errors import UserError
from harness.evaluate.detections import Detections
from harness.evaluate.lvis_ap import evaluate
from harness.evaluate.lvis_compat import numpy_float
from harness.evaluate.matching import IouType
from methods.contract import LossKind, Proposals, Scope
from tests.engine.mmdet_models import CLASSES, MODELS, make_engine, make_view, packed, run_config
from tests.evaluate.made_detections import REAL, make_results

SEED = 5


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest) -> MmdetEngine:
    return make_engine(request.param)


def draws(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def direct_losses(engine: MmdetEngine, views: list) -> dict[str, torch.Tensor]:
    """Every loss as mmdet's own training step sums it, by name."""
    module = copy.deepcopy(engine.module).train()
    torch.manual_seed(SEED)
    data = module.data_preprocessor(packed(views), True)
    found = module.loss(data["inputs"], data["data_samples"])
    return {
        name: sum(part.mean() for part in value) if isinstance(value, list) else value.mean()
        for name, value in found.items()
        if "loss" in name
    }


@pytest.mark.parametrize("instances", [(3, 4), (5, 0, 1), (0, 0)])
def test_losses_are_those_of_mmdet_called_directly(engine: MmdetEngine, instances: tuple[int, ...]) -> None:
    views = [make_view(count, seed) for seed, count in enumerate(instances)]
    direct = direct_losses(engine, views)
    table = engine.losses(views, Proposals.SAMPLED, draws())
    assert set(table.names()) == set(direct)
    for name, value in direct.items():
        torch.testing.assert_close(table.batch(name), value, rtol=2e-6, atol=1e-7, msg=lambda text, n=name: n + text)
    total = torch.stack(list(direct.values())).sum()
    torch.testing.assert_close(table.total(), total, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(table.per_image().sum(), total, rtol=2e-6, atol=1e-7)


def test_gradients_are_those_of_mmdet_called_directly() -> None:
    engine = make_engine("cascade")
    views = [make_view(3, 1), make_view(4, 2)]
    module = copy.deepcopy(engine.module).train()
    torch.manual_seed(SEED)
    data = module.data_preprocessor(packed(views), True)
    loss, _ = module.parse_losses(module.loss(data["inputs"], data["data_samples"]))
    loss.backward()
    engine.losses(views, Proposals.SAMPLED, draws()).total().backward()
    for (name, own), (_, theirs) in zip(engine.module.named_parameters(), module.named_parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: n + text)


def test_an_image_s_part_of_the_losses_is_its_own(engine: MmdetEngine) -> None:
    """Alone in a batch, an image has the sums that it has beside others (regions are drawn image by image)."""
    views = [make_view(3, 1), make_view(4, 2)]
    together = engine.losses(views, Proposals.GROUND_TRUTH, draws())
    for place, view in enumerate(views):
        alone = engine.losses([view], Proposals.GROUND_TRUTH, draws())
        for name, loss in together.losses.items():
            if name.endswith("loss_cls_classes"):
                continue  # Seesaw's weights come from the samples of the whole batch
            torch.testing.assert_close(loss.sum[place], alone.losses[name].sum[0], rtol=1e-4, atol=1e-5)
            assert loss.count[place] == alone.losses[name].count[0]


def test_ground_truth_proposals_are_the_instances_and_no_others(engine: MmdetEngine) -> None:
    views = [make_view(3, 1), make_view(4, 2), make_view(0, 3)]
    table = engine.losses(views, Proposals.GROUND_TRUTH, draws())
    assert not table.names(LossKind.PROPOSAL)
    first = next(name for name in table.names(LossKind.CLASSIFICATION))
    assert table.losses[first].count.tolist() == [3, 4, 0]
    assert torch.equal(engine.losses(views, Proposals.GROUND_TRUTH, draws(6)).total(), table.total())


def test_what_is_attributed_to_pasted_instances_is_what_comes_from_them(engine: MmdetEngine) -> None:
    """With no instance pasted it is nothing; with all of them pasted it is what their regions lose."""
    view = make_view(4, 2)
    nothing, everything = copy.deepcopy(view), copy.deepcopy(view)
    nothing.targets.pasted[:], everything.targets.pasted[:] = False, True
    kinds = (LossKind.CLASSIFICATION, LossKind.BOX, LossKind.MASK)
    assert engine.losses([nothing], Proposals.SAMPLED, draws()).pasted_total(*kinds) == 0
    table = engine.losses([everything], Proposals.GROUND_TRUTH, draws())
    first = "s0." if any(name.startswith("s0.") for name in table.names()) else ""
    for name, loss in table.losses.items():
        if name.startswith(first) and (first or "." not in name):  # later stages lose some regions
            torch.testing.assert_close(loss.pasted, loss.sum)
    half = engine.losses([view], Proposals.GROUND_TRUTH, draws()).pasted_total(*kinds)
    rest = copy.deepcopy(view)
    rest.targets.pasted = ~view.targets.pasted
    both = half + engine.losses([rest], Proposals.GROUND_TRUTH, draws()).pasted_total(*kinds)
    torch.testing.assert_close(both, engine.losses([everything], Proposals.GROUND_TRUTH, draws()).pasted_total(*kinds))


@pytest.mark.parametrize("instances", [(3, 4), (5, 0, 1), (0, 0)])
def test_losses_are_told_apart_by_instance(engine: MmdetEngine, instances: tuple[int, ...]) -> None:
    """Shares of what was pasted are the pasted part; boxes and masks have no other terms than those of instances."""
    views = [make_view(count, seed) for seed, count in enumerate(instances)]
    pasted = pad_sequence([view.targets.pasted for view in views], batch_first=True)
    for name, loss in engine.losses(views, Proposals.SAMPLED, draws()).losses.items():
        assert loss.instances.shape == (len(views), max(1, *instances))
        if loss.pasted is not None and pasted.numel():
            torch.testing.assert_close((loss.instances * pasted).sum(1), loss.pasted, rtol=1e-5, atol=1e-5)
        if name.endswith(("bbox", "mask")):
            torch.testing.assert_close(loss.instances.sum(1), loss.sum, rtol=1e-5, atol=1e-5)


def test_an_ignored_instance_counts_in_no_loss(engine: MmdetEngine) -> None:
    """With ground truth as the only proposals, leaving it out gives what its absence from the targets gives."""
    views = [make_view(3, 1), make_view(4, 2)]
    pasted = pad_sequence([view.targets.pasted for view in views], batch_first=True)
    found = engine.losses(views, Proposals.GROUND_TRUTH, draws()).selected(~pasted)
    bare = [View(view.image, view.targets[~view.targets.pasted]) for view in views]
    for name, expected in engine.losses(bare, Proposals.GROUND_TRUTH, draws()).losses.items():
        assert torch.equal(found.losses[name].count, expected.count)
        if not name.endswith("loss_cls_classes"):  # Seesaw's weights come from the samples of the whole batch
            torch.testing.assert_close(found.losses[name].sum, expected.sum, rtol=1e-4, atol=1e-5)


def test_the_backbone_s_features_are_of_its_last_level(engine: MmdetEngine) -> None:
    assert engine.backbone_features([make_view(1, 1).image[:, :64, :64]] * 2).shape == (2, 512, 2, 2)


def test_the_pass_s_generator_decides_what_is_drawn(engine: MmdetEngine) -> None:
    views = [make_view(4, 1), make_view(2, 2)]
    state = torch.random.get_rng_state()
    first, again, other = (engine.losses(views, Proposals.SAMPLED, draws(seed)).total() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    if not any(name.endswith("cum_samples") for name, _ in engine.module.named_buffers()):
        assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_passes_that_are_not_trained_on_are_not_counted() -> None:
    engine = make_engine("seesaw")
    counter = engine.module.roi_head.bbox_head.loss_cls.cum_samples
    engine.losses([make_view(4, 1)], Proposals.GROUND_TRUTH, draws())
    engine.losses([make_view(4, 1)], Proposals.SAMPLED, draws(), backbone_in_eval=True)
    assert counter.sum() == 0
    engine.losses([make_view(4, 1)], Proposals.SAMPLED, draws())
    assert counter.sum() > 0


def test_predictions_are_those_of_mmdet_called_directly(engine: MmdetEngine) -> None:
    views = [make_view(3, 1), make_view(2, 2, (64, 96))]
    on_disk = [(192, 160), (100, 150)]
    ours = engine.predict([view.image for view in views], on_disk)
    theirs = copy.deepcopy(engine.module).eval().test_step(packed(views, on_disk))
    assert sum(len(found.boxes) for found in ours) > 0
    for own, sample, size in zip(ours, theirs, on_disk, strict=True):
        found = sample.pred_instances
        assert torch.equal(own.boxes, found.bboxes)
        assert torch.equal(own.scores, found.scores)
        assert torch.equal(own.labels, found.labels)
        masks = found.masks.numpy() if "masks" in found else np.zeros((len(found), *size), bool)
        assert np.array_equal(_decoded(own.rles, size), masks)
        assert own.scores.tolist() == sorted(own.scores.tolist(), reverse=True)


def _decoded(rles: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    from pycocotools import mask

    return np.array([mask.decode(rle) for rle in rles], bool).reshape(-1, *size)


def test_classes_beyond_the_dataset_s_own_are_not_predicted() -> None:
    engine = make_engine("mask_rcnn")
    engine.evaluated = 3
    found = engine.predict([make_view(0, 1).image], [(96, 80)])[0]
    assert len(found.labels) == 0 or found.labels.max() < 3


def test_scopes_are_nested(engine: MmdetEngine) -> None:
    everything, heads, last = (
        {id(p) for p in engine.parameters(scope)} for scope in (Scope.all, Scope.heads, Scope.last)
    )
    assert last < heads < everything
    assert everything == {id(p) for p in engine.module.parameters() if p.requires_grad}


@pytest.mark.parametrize("precision", [Precision.bf16])
def test_mixed_precision_leaves_losses_in_full_precision(precision: Precision) -> None:
    engine = make_engine("mask_rcnn")
    views = [make_view(3, 1)]
    full = engine.losses(views, Proposals.GROUND_TRUTH, draws()).total()
    engine.precision = precision
    mixed = engine.losses(views, Proposals.GROUND_TRUTH, draws()).total()
    assert mixed.dtype is torch.float32
    assert not torch.equal(mixed, full)
    torch.testing.assert_close(mixed, full, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("config", "overrides", "words"),
    [
        ("mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v2", [], ["no such", "lvis-v1"]),
        ("mask-rcnn_r50_fpn_1x_coco", ["model.roi_hed.mask_head.num_convs=1"], ["roi_hed", "'roi_head'"]),
        ("mask-rcnn_r50_fpn_1x_coco", ["nonsense"], ["key=value"]),
        ("mask-rcnn_r50_fpn_1x_coco", ["model.neck.channels=3"], ["cannot build", "'channels'"]),
        ("mask-rcnn_r50_fpn_1x_coco", ["model.neck.out_channels={a: 1}"], ["model.neck.out_channels"]),
        ("retinanet_r50_fpn_1x_coco", [], ["RetinaNet", "two-stage"]),
        ("solov2_r50_fpn_1x_coco", [], ["SOLOv2", "two-stage"]),
        ("fast-rcnn_r50_fpn_1x_coco", ["model.backbone.depth=18"], ["FastRCNN has no proposal network"]),
        ("htc-without-semantic_r50_fpn_1x_coco", [], ["HybridTaskCascadeRoIHead", "losses"]),
        ("scnet_r50_fpn_1x_coco", [], ["SCNetRoIHead", "losses"]),
        ("dynamic-rcnn_r50_fpn_1x_coco", [], ["DynamicRoIHead", "losses"]),
        ("queryinst_r50_fpn_1x_coco", [], ["EmbeddingRPNHead is not an RPNHead"]),
        ("ga-faster-rcnn_r50_fpn_1x_coco", [], ["GARPNHead is not an RPNHead"]),
        ("panoptic-fpn_r50_fpn_1x_coco", [], ["PanopticFPN", "losses"]),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(config: str, overrides: list[str], words: list[str]) -> None:
    settings = run_config("mask_rcnn")
    settings.engine.config, settings.engine.overrides = config, overrides
    with pytest.raises(UserError) as caught:
        create(settings, CLASSES, np.full(CLASSES, 10))
    for word in words:
        assert word in str(caught.value)


def test_a_backbone_s_weights_are_given_and_never_downloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wish = "model.backbone.init_cfg={_delete_: true, type: Pretrained, checkpoint: 'torchvision://resnet18'}"
    trunk = make_engine("mask_rcnn", wish).module.backbone
    assert "torchvision://resnet18 is not downloaded" in caplog.text
    tensors = {name: torch.full_like(value, 0.5) for name, value in trunk.state_dict().items()}
    torch.save(tensors | {"fc.weight": torch.zeros(1)}, tmp_path / "resnet18.pth")
    given = make_engine("mask_rcnn", wish.replace("torchvision://resnet18", str(tmp_path / "resnet18.pth")))
    for name, value in given.module.backbone.state_dict().items():
        assert torch.equal(value, tensors[name])


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        ("point-rend_r50-caffe_fpn_ms-1x_coco", "loss_point"),
        ("ms-rcnn_r50_fpn_1x_coco", "loss_mask_iou"),
        ("sabl-faster-rcnn_r50_fpn_1x_coco", "loss_bbox_cls"),
    ],
)
def test_losses_that_cannot_be_told_apart_are_named_with_the_first_ones(config: str, loss: str) -> None:
    settings = run_config("mask_rcnn")
    settings.engine.config, settings.engine.overrides = config, ["model.train_cfg.rcnn.sampler.num=32"]
    engine = create(settings, CLASSES, np.full(CLASSES, 10))
    with pytest.raises(
        UserError, match=rf"{loss} cannot be attributed to single images; see docs/explanation/engines\.md"
    ):
        engine.losses([make_view(3, 1)], Proposals.SAMPLED, draws())


def test_mmdet_s_own_swin_and_ours_take_each_other_s_weights(tmp_path: Path) -> None:
    """A file of official names for a configuration's own Swin, and one of mmdet's for the group `backbone`."""
    shape = "embed_dims: 8, depths: [1, 1, 1, 1], num_heads: [1, 1, 1, 1], window_size: 4, drop_path_rate: 0.0"
    own_swin = [
        f"model.backbone={{_delete_: true, type: SwinTransformer, {shape}}}",
        "model.neck.in_channels=[8,16,32,64]",
    ]
    slim = [text for text in MODELS["mask_rcnn"][1] if "backbone" not in text and "in_channels=[64" not in text]
    config = run_config("mask_rcnn")
    member = backbones.find("swin_l")()
    member.embed, member.depths, member.heads, member.window = 8, [1, 1, 1, 1], [1, 1, 1, 1], 4
    config.backbone = member
    source = member.build((4, 8, 16, 32)).eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=draws()) - 0.5, alpha=0.1)
    torch.save({"model": source.state_dict()}, tmp_path / "official.pth")
    member.weights = str(tmp_path / "official.pth")
    config.engine.overrides = [*slim, *own_swin]
    theirs = create(config, CLASSES, np.full(CLASSES, 10)).module.backbone
    theirs.eval()
    assert type(theirs).__name__ == "SwinTransformer"
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "mmdet.pth")
    member.weights = str(tmp_path / "mmdet.pth")
    config.engine.config, config.engine.overrides = None, slim
    ours = create(config, CLASSES, np.full(CLASSES, 10)).module.backbone.eval()
    image = torch.rand(1, 3, 72, 100, generator=draws())
    with torch.no_grad():
        for first, second, third in zip(source(image).values(), theirs(image), ours(image), strict=True):
            torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
            assert torch.equal(third, first)


def test_without_a_pyramid_a_resnet_s_last_stage_is_loaded_into_the_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such configurations wish for weights in two places, of which mmengine would download each."""
    config = run_config("mask_rcnn")
    config.engine.config, config.engine.overrides = "faster-rcnn_r50-caffe-c4_ms-1x_coco", []
    caplog.set_level("INFO")
    start = create(config, CLASSES, np.full(CLASSES, 10)).module
    assert caplog.text.count("is not downloaded") == 2
    state = {name: value + 0.5 for name, value in backbones.find("resnet50")().build((32,)).state_dict().items()}
    torch.save(state, tmp_path / "resnet50.pth")
    config.backbone.weights = str(tmp_path / "resnet50.pth")
    loaded = create(config, CLASSES, np.full(CLASSES, 10)).module
    last = "layer4.2.conv3.weight"
    assert torch.equal(loaded.roi_head.shared_head.state_dict()[last], state[last])
    assert not torch.equal(start.roi_head.shared_head.state_dict()[last], state[last])
    assert torch.equal(loaded.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


def test_resnet50_is_mmdet_s_with_the_same_names() -> None:
    """So one file of pretrained weights serves both, and `backbone=resnet50` is one architecture."""
    from mmdet.models.backbones import ResNet

    ours, theirs = backbones.find("resnet50")().build((4, 8, 16, 32)), ResNet(50)
    ours.eval()
    theirs.eval()
    missing, left = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not left
    assert all(name.endswith("num_batches_tracked") for name in missing)
    image = torch.rand(1, 3, 64, 64, generator=draws())
    with torch.no_grad():
        for own, other in zip(ours(image).values(), theirs(image), strict=True):
            torch.testing.assert_close(own, other)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ap_is_that_of_mmdet_s_metric_on_the_same_detections(
    kind: IouType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmdet.evaluation.metrics import lvis_metric

    evaluations = []

    class Kept(lvis_metric.LVISEval):  # mmdet rounds its figures to three digits
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            evaluations.append(self)

    monkeypatch.setattr(lvis_metric, "LVISEval", Kept)
    annotations = load_annotations(REAL, tmp_path)
    place = {int(category): index for index, category in enumerate(annotations.category_ids)}
    metric = lvis_metric.LVISMetric(ann_file=str(REAL), metric=kind, outfile_prefix=str(tmp_path / "found"))
    metric.dataset_meta = {"classes": tuple(place)}
    by_image: dict[int, list[dict]] = {int(image): [] for image in annotations.image_ids}
    for result in make_results(annotations, 8, np.random.default_rng(0)):
        by_image[result["image_id"]].append(result)
    for (image, found), height, width in zip(by_image.items(), annotations.heights, annotations.widths, strict=True):
        boxes = torch.tensor([r["bbox"] for r in found], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        predicted = {
            "bboxes": boxes,
            "scores": torch.tensor([r["score"] for r in found], dtype=torch.float64),
            "labels": torch.tensor([place[r["category_id"]] for r in found]),
            "masks": torch.from_numpy(_decoded([r["segmentation"] for r in found], (height, width))),
        }
        sample = {"img_id": image, "ori_shape": (height, width), "pred_instances": predicted}
        metric.process({}, [sample])
    with numpy_float():
        rounded = metric.evaluate(len(by_image))
    found = Detections.read(tmp_path / f"found.{kind}.json", annotations)
    ours = evaluate(annotations, found, (kind,)).metrics[kind]
    (theirs,) = evaluations
    assert rounded[f"lvis/{kind}_AP"] == round(ours["AP"], 3) > 0
    for name, value in theirs.get_results().items():
        own = -1.0 if ours[name] is None else ours[name]
        assert abs(own - value) < 1e-9, name
