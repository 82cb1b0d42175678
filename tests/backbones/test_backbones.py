from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import backbones
from backbones.resnet import FrozenNorm
from backbones.swin import SEPARATED, shift_mask


@pytest.mark.parametrize("name", backbones.names())
def test_members_are_hydra_options_by_name(name: str) -> None:
    member = backbones.find(name)
    assert backbones.name_of(member) == backbones.name_of(member()) == name
    tree = OmegaConf.structured(member)
    assert tree.weights is None
    assert isinstance(OmegaConf.to_object(tree), member)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "swin_mini"])
@pytest.mark.parametrize("strides", [[4, 8, 16], [8, 16]])
def test_features_by_stride(name: str, strides: list[int]) -> None:
    trunk = backbones.find(name)().build(strides)
    features = trunk(torch.randn(2, 3, 64, 96))
    assert list(features) == strides
    for stride, feature in features.items():
        assert feature.shape == (2, trunk.channels[stride], 64 // stride, 96 // stride)
    sum(f.sum() for f in features.values()).backward()
    assert all(p.grad is not None for p in trunk.parameters()), "nothing is built that the strides do not need"


def test_unknown_names_and_strides() -> None:
    with pytest.raises(LookupError, match=r"there are .*resnet50"):
        backbones.find("resnet5O")
    with pytest.raises(ValueError, match="stride"):
        backbones.find("resnet18")().build([2, 4])
    with pytest.raises(ValueError, match="powers of two, not 12"):
        backbones.find("swin_mini")().build([8, 12])

    @dataclass
    class Other:
        weights: str | None = None

    with pytest.raises(ValueError, match="taken"):
        backbones.register("resnet50")(Other)


def test_importing_the_registry_does_not_import_torch() -> None:
    code = "import sys, backbones; backbones.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_frozen_norm_is_batch_norm_in_evaluation() -> None:
    norm, frozen = nn.BatchNorm2d(6).eval(), FrozenNorm(6)
    with torch.no_grad():
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    frozen.load_state_dict(norm.state_dict(), strict=False)
    x = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(frozen(x), norm(x))
    assert frozen(x.bfloat16()).dtype == torch.bfloat16
    assert not list(frozen.parameters())


def test_frozen_resnet_does_not_start_with_dead_branches() -> None:
    trunk = backbones.find("resnet50")().build([8])
    assert all(m.weight.min() > 0 for m in trunk.modules() if isinstance(m, FrozenNorm))


@pytest.mark.parametrize("name", ["resnet18", "swin_mini"])
def test_activation_checkpointing_changes_no_gradient(name: str) -> None:
    member = backbones.find(name)()
    member.stochastic_depth = 0.5
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        trunk = member.build([4, 8, 16], checkpointing)
        torch.manual_seed(4)
        total = sum(f.square().mean() for f in trunk(torch.randn(2, 3, 64, 64)).values())
        gradients.append(torch.autograd.grad(total, list(trunk.parameters())))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize(("height", "width"), [(8, 10), (12, 12), (13, 25)])
def test_shifted_windows_see_their_own_region_alone(height: int, width: int) -> None:
    """Two tokens of one window of the rolled map may see each other where they were neighbours before rolling."""
    window, shift = 12, 6
    mask = shift_mask(height, width, window, shift, torch.device("cpu"))
    padded_h, padded_w = height + -height % window, width + -width % window
    place = torch.stack(torch.meshgrid(torch.arange(padded_h), torch.arange(padded_w), indexing="ij"), -1)
    rolled = place.roll((-shift, -shift), (0, 1))
    rows, columns = padded_h // window, padded_w // window
    tokens = rolled.view(rows, window, columns, window, 2).transpose(1, 2).reshape(-1, window * window, 2)
    together = torch.ones(len(tokens), window**2, window**2, dtype=torch.bool)
    for axis, length in enumerate((padded_h, padded_w)):
        one, other = tokens[:, :, None, axis], tokens[:, None, :, axis]
        # In a map of one window, what was rolled around stands beside what was not: a map's length apart, less one.
        apart = (one < shift) != (other < shift) if length == window else (one - other).abs() >= window
        together &= ~apart
    assert mask.equal(torch.where(together, 0.0, SEPARATED))


def test_swin_attends_within_windows() -> None:
    """In the first block a pixel moves the features of its own window alone."""
    member = backbones.find("swin_mini")()
    member.depths, member.heads = [1], [2]
    trunk = member.build([4]).eval()
    image = torch.randn(1, 3, 64, 64)
    moved = image.clone()
    moved[..., 5, 5] += 1
    changed = (trunk(image)[4] - trunk(moved)[4]).abs().sum(1)[0] > 0
    assert changed[:4, :4].all()
    assert not changed[4:].any()
    assert not changed[:, 4:].any()


@pytest.mark.slow
def test_swin_l_has_195_million_parameters_and_trains() -> None:
    trunk = backbones.find("swin_l")().build([8, 16, 32])
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(195.2e6, rel=1e-3)
    features = trunk(torch.randn(1, 3, 64, 96))
    assert [f.shape[1] for f in features.values()] == [384, 768, 1536]
    sum(f.square().mean() for f in features.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())
