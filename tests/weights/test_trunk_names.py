"""One file of pretrained weights serves every engine, whatever names it has."""

from __future__ import annotations

import functools
import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import backbones
from backbones.resnet import ResNetTrunk
from backbones.swin import SwinTrunk
from harness.engine.mmdet.operations import provide_operations
from harness.errors import UserError
from harness.weights.loading import load_backbone

STRIDES = (4, 8, 16, 32)
IMAGE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
# Windows of 2 divide the map of every stage (timm pads otherwise than detectors do) and are smaller than it.
EMBED, DEPTHS, HEADS, WINDOW = 8, (2, 2, 2, 2), (1, 2, 2, 4), 2

needs_mmdet = pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="mmdet is not installed")
needs_detectron2 = pytest.mark.skipif(importlib.util.find_spec("detectron2") is None, reason="detectron2 is missing")


def our_swin() -> nn.Module:
    return SwinTrunk(
        STRIDES,
        embed=EMBED,
        depths=DEPTHS,
        heads=HEADS,
        window=WINDOW,
        stochastic_depth=0.0,
        activation_checkpointing=False,
    )


def mmdet_swin() -> nn.Module:
    provide_operations()
    from mmdet.models.backbones import SwinTransformer

    return SwinTransformer(
        embed_dims=EMBED, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, drop_path_rate=0.0, init_cfg=None
    )


def detectron2_swin() -> nn.Module:
    from detectron2.modeling.backbone.swin import SwinTransformer

    return SwinTransformer(embed_dim=EMBED, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, drop_path_rate=0.0)


def timm_swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=128, embed_dim=EMBED, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, drop_path_rate=0.0
    )


def our_resnet() -> nn.Module:
    return ResNetTrunk(
        STRIDES,
        bottleneck=True,
        depths=(1, 2, 1, 1),
        widths=(64, 128, 256, 512),
        frozen_norm=True,
        stochastic_depth=0.0,
        activation_checkpointing=False,
    )


def mmdet_resnet() -> nn.Module:
    provide_operations()
    from mmdet.models.backbones import ResNet

    class Short(ResNet):
        arch_settings = {**ResNet.arch_settings, 50: (ResNet.arch_settings[50][0], (1, 2, 1, 1))}  # noqa: RUF012

    return Short(50)


def detectron2_resnet() -> nn.Module:
    from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

    widths = (256, 512, 1024, 2048)
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            blocks,
            in_channels=before,
            out_channels=out,
            bottleneck_channels=out // 4,
            stride_in_1x1=False,
            norm="FrozenBN",
            stride_per_block=[stride] + [1] * (blocks - 1),
        )
        for blocks, before, out, stride in zip((1, 2, 1, 1), (64, *widths), widths, (1, 2, 2, 2), strict=False)
    ]
    return ResNet(BasicStem(3, 64, "FrozenBN"), stages, out_features=["res2", "res3", "res4", "res5"])


def torchvision_resnet() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 2, 1, 1])


def features(trunk: nn.Module) -> list[Tensor]:
    """By stage, (n, C, H, W); timm's without the norm that its detectors' trunks have."""
    trunk.eval()
    with torch.no_grad():
        found: Any = trunk(IMAGE)
    return list(found.values()) if isinstance(found, dict) else list(found)


def scrambled(trunk: nn.Module, seed: int) -> nn.Module:
    """No weight or statistic keeps a value that another place has as well; norms on outputs stay at 1 and 0."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in trunk.state_dict().items():
            output = name.startswith(("norm0", "norm1", "norm2", "norm3"))
            if tensor.is_floating_point() and not output and not name.endswith("attn_mask"):
                noise = torch.rand(tensor.shape, generator=draws)
                tensor.copy_(noise + 0.5 if tensor.dim() < 2 else (noise - 0.5) / tensor[0].numel() ** 0.5 * 3)
    return trunk


def as_pth(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model": state, "epoch": 3}, path / "w.pth")
    return path / "w.pth"


def as_pkl(state: dict[str, Tensor], path: Path) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    (path / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}))
    return path / "w.pkl"


def as_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path / "w.safetensors")
    return path / "w.safetensors"


def below(stem: str) -> Callable[[dict[str, Tensor], Path], Path]:
    """As a detector's checkpoint has it, which has other parts too."""

    def write(state: dict[str, Tensor], path: Path) -> Path:
        other = {"roi_heads.box_head.fc1.weight": torch.zeros(2), "backbone.fpn_lateral3.weight": torch.zeros(2)}
        torch.save({"state_dict": {stem + name: value for name, value in state.items()} | other}, path / "w.pth")
        return path / "w.pth"

    return write


SWINS: dict[str, Any] = {
    "ours": pytest.param(our_swin, as_pth),
    "timm": pytest.param(timm_swin, as_safetensors),
    "detectron2": pytest.param(detectron2_swin, as_pkl, marks=needs_detectron2),
    "mmdet": pytest.param(mmdet_swin, as_pth, marks=needs_mmdet),
    "published detector": pytest.param(our_swin, below("backbone.bottom_up.")),
    "mmdet detector": pytest.param(mmdet_swin, below("backbone."), marks=needs_mmdet),
    "run on mmdet": pytest.param(our_swin, below("backbone.trunk.")),
    "run on detectron2": pytest.param(our_swin, below("backbone.bottom_up.trunk.")),
}
RESNETS: dict[str, Any] = {
    "ours": pytest.param(our_resnet, as_pth),
    "torchvision": pytest.param(torchvision_resnet, as_pth),
    "detectron2": pytest.param(detectron2_resnet, as_pkl, marks=needs_detectron2),
    "mmdet": pytest.param(mmdet_resnet, below("backbone."), marks=needs_mmdet),
    "published detector": pytest.param(our_resnet, below("backbone.bottom_up.base.")),
}


@pytest.mark.parametrize(("make", "write"), SWINS.values(), ids=SWINS)
@pytest.mark.parametrize(
    "target",
    [our_swin, pytest.param(mmdet_swin, marks=needs_mmdet), pytest.param(detectron2_swin, marks=needs_detectron2)],
)
def test_a_swin_s_features_are_those_of_the_file_s(
    make: Callable[[], nn.Module], write: Callable[..., Path], target: Callable[[], nn.Module], tmp_path: Path
) -> None:
    source = scrambled(make(), 1)
    expected = timm_features(source) if make is timm_swin else features(source)
    loaded = scrambled(target(), 2)
    load(loaded, write(source.state_dict(), tmp_path))
    for own, other in zip(features(loaded), expected, strict=True):
        assert own.std() > 0.1
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def timm_features(model: Any) -> list[Tensor]:
    """Its stages' outputs before patch merging, normalised as a detector's trunk does it."""
    model.eval()
    with torch.no_grad():
        x, found = model.patch_embed(IMAGE), []
        for stage in model.layers:
            x = stage(x)
            found.append(torch.nn.functional.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2))
    return found


@pytest.mark.parametrize(("make", "write"), RESNETS.values(), ids=RESNETS)
@pytest.mark.parametrize(
    "target",
    [
        our_resnet,
        pytest.param(mmdet_resnet, marks=needs_mmdet),
        pytest.param(detectron2_resnet, marks=needs_detectron2),
    ],
)
def test_a_resnet_s_features_are_those_of_the_file_s(
    make: Callable[[], nn.Module], write: Callable[..., Path], target: Callable[[], nn.Module], tmp_path: Path
) -> None:
    source = scrambled(make(), 1)
    loaded = scrambled(target(), 2)
    load(loaded, write(source.state_dict(), tmp_path))
    reference = our_resnet()
    reference.load_state_dict(our_names(source), strict=False)
    for own, other in zip(features(loaded), features(reference), strict=True):
        assert own.std() > 0.1
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def our_names(source: nn.Module) -> dict[str, Tensor]:
    """By place instead of by name: all of these list their convolutions and norms in the order of the network."""
    if not any(name.startswith("stem.") for name in source.state_dict()):
        return source.state_dict()
    found: dict[str, Tensor] = {}
    for stage, blocks in zip(("", "layer1", "layer2", "layer3", "layer4"), (0, 1, 2, 1, 1), strict=True):
        if not stage:
            found |= module_names("conv1", "bn1", source.stem.conv1)
        for block in range(blocks):
            theirs = getattr(source, f"res{int(stage[-1]) + 1}")[block]
            for place in (1, 2, 3):
                stem = f"{stage}.{block}."
                found |= module_names(f"{stem}conv{place}", f"{stem}bn{place}", getattr(theirs, f"conv{place}"))
            if theirs.shortcut is not None:
                found |= module_names(f"{stem}downsample.0", f"{stem}downsample.1", theirs.shortcut)
    return found


def module_names(convolution: str, norm: str, theirs: Any) -> dict[str, Tensor]:
    return {f"{convolution}.weight": theirs.weight} | {
        f"{norm}.{name}": value for name, value in theirs.norm.state_dict().items()
    }


def load(trunk: nn.Module, path: Path) -> None:
    """As the trunk's engine loads it."""
    if type(trunk).__module__.startswith("detectron2."):
        from harness.engine.detectron2.loading import load_trunk

        model = nn.Module()
        model.backbone, model.input_format = trunk, "RGB"
        model.register_buffer("pixel_std", torch.full((3, 1, 1), 58.0))
        load_trunk(model, path)
    else:
        load_backbone(trunk, path)


def real_mmdet(name: str) -> nn.Module:
    provide_operations()
    from mmdet.models.backbones import ResNet, SwinTransformer

    if name == "resnet50":
        return ResNet(50)
    return SwinTransformer(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window_size=12)


def real_detectron2(name: str) -> nn.Module:
    from detectron2.modeling.backbone import ResNet, SwinTransformer
    from detectron2.modeling.backbone.resnet import BasicStem

    if name == "resnet50":
        return ResNet(BasicStem(3, 64, "BN"), ResNet.make_default_stages(50, norm="BN"), out_features=["res5"])
    return SwinTransformer(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window_size=12)


@pytest.mark.filterwarnings("ignore:.*meta parameter")
@pytest.mark.parametrize(
    "theirs",
    [pytest.param(real_mmdet, marks=needs_mmdet), pytest.param(real_detectron2, marks=needs_detectron2)],
)
@pytest.mark.parametrize("name", ["resnet50", "swin_l"])
def test_real_backbones_have_places_for_each_other_s_weights(
    name: str, theirs: Callable[[str], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both frameworks' Swins compute the rates of stochastic depth with it.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        trunks = backbones.find(name)().build(STRIDES), theirs(name)
    for source, target in (trunks, trunks[::-1]):
        # One number a tensor on disk: names and shapes are what is compared.
        shapes = {key: torch.ones(()).expand(value.shape) for key, value in source.state_dict().items()}
        torch.save(shapes, tmp_path / "w.pth")
        report = load_backbone(target, tmp_path / "w.pth")
        derived = ("num_batches_tracked", "relative_position_index")
        assert all(key.endswith(derived) for key in (*report.missing, *report.left_over))


def test_caffe_s_resnets_are_refused_where_they_would_compute_something_else(tmp_path: Path) -> None:
    state = our_resnet().state_dict()
    named = {
        "stem.conv1.weight": state["conv1.weight"],
        **{f"stem.conv1.norm.{key}": state[f"bn1.{key}"] for key in ("weight", "bias", "running_mean", "running_var")},
    }
    torch.save(named, tmp_path / "msra.pth")
    with pytest.raises(UserError, match="Caffe"):
        load_backbone(our_resnet(), tmp_path / "msra.pth")


def test_another_detector_s_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    from harness.weights.loading import Layout, convert, load_published

    torch.save({"backbone.conv1.weight": torch.zeros(1), "roi_head.x": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"engine=mmdet, which engine=native cannot load; backbone\.weights="):
        load_published(our_resnet(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="an mmdet detector"):
        convert(tmp_path / "w.pth", tmp_path / "out.pth", Layout.DETECTRON2)
