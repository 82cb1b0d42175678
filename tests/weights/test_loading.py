from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import backbones
from harness.commands.weights import convert_weights, inspect_weights
from harness.config import DetectorConfig
from harness.detector.centernet2 import CenterNet2
from harness.errors import UserError
from harness.weights.file import read_weights
from harness.weights.loading import Layout, convert, load_backbone, load_published

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = DetectorConfig(channels=32, fc_width=16, mask_channels=8, head_groups=8)


def build(backbone: str = "resnet18", classes: int = 7) -> CenterNet2:
    member = backbones.find(backbone)()
    if backbone == "swin_mini":
        member.depths, member.heads = [1, 1, 1, 1], [1, 1, 1, 1]
    return CenterNet2(SMALL, member.build(SMALL.strides), classes, np.ones(classes, np.int64))


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def published_state(module: nn.Module, tmp_path: Path) -> dict[str, Tensor]:
    torch.save({"model": module.state_dict()}, tmp_path / "ours.pth")
    convert(tmp_path / "ours.pth", tmp_path / "published.pth", Layout.DETECTRON2)
    return read_weights(tmp_path / "published.pth").tensors


def as_pth(state: dict[str, Tensor], path: Path) -> Path:
    # As the published training code leaves it: optimiser, schedule with NumPy numbers, and the average beside.
    content = {"model": {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}, "model_ema": state}
    torch.save(content | {"scheduler": {"last_lr": [np.float64(1e-4)]}, "iteration": 9}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def as_pickled_arrays(state: dict[str, Tensor], path: Path) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path.with_suffix(".pkl").write_bytes(
        pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True})
    )
    return path.with_suffix(".pkl")


def as_pickled_tensors(state: dict[str, Tensor], path: Path) -> Path:
    path.with_suffix(".pkl").write_bytes(pickle.dumps({"model": state, "__author__": "third_party"}))
    return path.with_suffix(".pkl")


@pytest.mark.parametrize("write", [as_pth, as_pickled_arrays, as_pickled_tensors])
@pytest.mark.parametrize("backbone", ["resnet18", "swin_mini"])
def test_published_layouts_load(write: Callable[..., Path], backbone: str, tmp_path: Path) -> None:
    source, target = build(backbone), build(backbone)
    state = published_state(source, tmp_path)
    state["grad_bank.weight"] = torch.zeros(3)
    state["roi_heads.box_predictor.0.freq_weight"] = torch.ones(7)
    path = write(state, tmp_path / "weights")
    assert not equal(source, target)
    report = load_published(target, path)
    assert equal(source, target)
    assert report.left_over == ["grad_bank.weight", "roi_heads.box_predictor.0.freq_weight"]
    assert report.missing == []
    assert len(report.matched) == len(source.state_dict())
    assert f"{len(report.matched)} tensors loaded" in str(report)


@pytest.mark.filterwarnings("ignore:.*meta parameter")
@pytest.mark.parametrize(("file", "backbone"), [("centernet2_r50", "resnet50"), ("centernet2_swinl", "swin_l")])
def test_every_published_name_has_a_place(file: str, backbone: str, tmp_path: Path) -> None:
    """A file with the published names and shapes, where no value matters, loads with nothing required missing."""
    with torch.device("meta"):
        config = DetectorConfig()
        trunk = backbones.find(backbone)().build(config.strides)
        module = CenterNet2(config, trunk, 1203, np.ones(1203, np.int64))
    with np.load(GOLDEN / f"{file}.npz") as figures:
        keys = [str(entry).split(" ", 1) for entry in figures["state_dict_keys"]]
    shapes = {name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for name, shape in keys}
    # One number a tensor on disk: the shapes are what is compared.
    torch.save({"model": {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}}, tmp_path / "w.pth")
    report = load_published(module, tmp_path / "w.pth")
    assert len(report.matched) + len(report.missing) == len(module.state_dict())
    allowed = ("num_batches_tracked", "relative_position_index", "freq_weight", "fc.weight", "fc.bias")
    assert all(name.endswith(allowed) for name in [*report.missing, *report.left_over])


def test_a_missing_part_is_an_error_that_names_it(tmp_path: Path) -> None:
    state = published_state(build(), tmp_path)
    del state["roi_heads.mask_head.predictor.bias"]
    with pytest.raises(UserError, match=r"mask_head\.predictor\.bias"):
        load_published(build(), as_pth(state, tmp_path / "w"))


def test_another_number_of_classes_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    state = published_state(build(classes=9), tmp_path)
    with pytest.raises(UserError, match=r"data\.num_classes"):
        load_published(build(classes=7), as_pth(state, tmp_path / "w"))


def test_our_own_checkpoints_load_average_first(tmp_path: Path) -> None:
    source, average, target = build(), build(), build()
    content = {"model": source.state_dict(), "model_ema": average.state_dict(), "iteration": 5}
    torch.save(content, tmp_path / "final.pt")
    load_published(target, tmp_path / "final.pt")
    assert equal(average, target)


class Wicked:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_nothing_in_a_file_is_executed(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"wicked{suffix}"
    content = {"model": {"a": Wicked()}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="not read"):
        read_weights(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_damaged_files_are_user_errors(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\."):
        read_weights(path)


def test_a_truncated_checkpoint_is_a_user_error(tmp_path: Path) -> None:
    path = as_pth(published_state(build(), tmp_path), tmp_path / "w")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="damaged"):
        read_weights(path)


def test_backbones_load_from_classifiers_and_from_detectors(tmp_path: Path) -> None:
    source = build("swin_mini").backbone
    classifier = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("norm")}
    classifier |= {
        "head.weight": torch.zeros(5, 8),
        "norm.weight": torch.zeros(8),
        "layers.0.blocks.0.attn_mask": torch.zeros(2),
    }
    torch.save({"model": classifier}, tmp_path / "swin.pth")
    target = build("swin_mini").backbone
    report = load_backbone(target, tmp_path / "swin.pth")
    assert equal(source, target)
    assert report.left_over == ["head.weight", "layers.0.blocks.0.attn_mask", "norm.weight"]
    assert all(name.startswith("norm") for name in report.missing)

    detector = build()
    target = build().backbone
    load_backbone(target, as_pth(published_state(detector, tmp_path), tmp_path / "w"))
    assert equal(detector.backbone, target)
    with pytest.raises(UserError, match=r"backbone\.weights"):
        load_published(build("swin_mini"), tmp_path / "swin.pth")
    with pytest.raises(UserError, match="lacks"):
        load_backbone(build().backbone, tmp_path / "swin.pth")


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_conversion_goes_there_and_back(suffix: str, tmp_path: Path) -> None:
    source, target = build(), build()
    torch.save({"model": source.state_dict()}, tmp_path / "ours.pt")
    convert_weights(tmp_path / "ours.pt", tmp_path / f"theirs{suffix}")
    names = read_weights(tmp_path / f"theirs{suffix}").tensors
    assert "roi_heads.box_predictor.0.cls_score.weight" in names
    assert "backbone.bottom_up.base.layer1.0.conv1.weight" in names
    assert convert(tmp_path / f"theirs{suffix}", tmp_path / "back.pth", Layout.NATIVE) == []
    load_published(target, tmp_path / "back.pth")
    assert equal(source, target)


def test_inspect_says_what_is_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_weights(as_pth(published_state(build(), tmp_path), tmp_path / "w"))
    text = capsys.readouterr().out
    assert "layout detectron2" in text
    assert "model_ema" in text
    assert "roi_heads.box_predictor.0" in text
