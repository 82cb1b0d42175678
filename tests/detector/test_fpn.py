"""The pyramid against torchvision's, which it follows in everything but the order of its initial draws."""

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from harness.detector.fpn import FPN

CHANNELS = {8: 12, 16: 20, 32: 28}
WIDTH = 16


def torchvisions(ours: FPN) -> FeaturePyramidNetwork:
    """torchvision's pyramid with the weights of ours."""
    theirs = FeaturePyramidNetwork(list(CHANNELS.values()), WIDTH, LastLevelP6P7(WIDTH, WIDTH))
    blocks = [block for pair in zip(theirs.inner_blocks, theirs.layer_blocks, strict=True) for block in pair]
    convolutions = [block[0] for block in blocks] + [theirs.extra_blocks.p6, theirs.extra_blocks.p7]
    own = [module for module in ours.modules() if isinstance(module, nn.Conv2d)]
    for mine, convolution in zip(own, convolutions, strict=True):
        convolution.load_state_dict(mine.state_dict())
    return theirs


def test_features_and_gradients_are_torchvisions() -> None:
    ours = FPN(CHANNELS, list(CHANNELS), WIDTH, 2)
    theirs = torchvisions(ours)
    features = {s: torch.randn(2, c, 128 // s, 192 // s, requires_grad=True) for s, c in CHANNELS.items()}
    levels, expected = ours(features), list(theirs({str(s): f for s, f in features.items()}).values())
    assert all(torch.equal(a, b) for a, b in zip(levels, expected, strict=True))
    inputs = list(features.values())
    mine, them = (torch.autograd.grad(sum(x.square().sum() for x in out), inputs) for out in (levels, expected))
    assert all(torch.equal(a, b) for a, b in zip(mine, them, strict=True))


@pytest.mark.parametrize(("extra", "strides"), [(0, [8, 16, 32]), (1, [8, 16, 32, 64]), (2, [8, 16, 32, 64, 128])])
def test_levels_are_named_by_their_strides(extra: int, strides: list[int]) -> None:
    pyramid = FPN(CHANNELS, list(CHANNELS), WIDTH, extra)
    assert pyramid.strides == strides
    assert {name.split(".")[0] for name in pyramid.state_dict()} == {
        *(f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (3, 4, 5)),
        *(["top_block"] if extra else []),
    }
    with pytest.raises(ValueError, match=r"detector\.strides must double"):
        FPN(CHANNELS, [8, 32], WIDTH, extra)
