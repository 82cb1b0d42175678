"""Feature pyramid network (1612.03144) with extra levels by stride-2 convolutions on its last output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from backbones import level_of


class FPN(nn.Module):
    """Turns backbone features, by stride, into pyramid levels of equal width, finest first.

    `strides` lists all levels, the extra ones too; raises ValueError unless each is double the one before.

    torchvision's FeaturePyramidNetwork with LastLevelP6P7 computes the same, bit for bit. We do not use it because it
    draws initial weights in another order, which would change all results of a seed, and because it adds exactly two
    extra levels. Names are those of published files, where P3 has stride 8.
    """

    def __init__(self, channels: Mapping[int, int], strides: Sequence[int], width: int, extra_levels: int) -> None:
        super().__init__()
        self.inputs = sorted(strides)
        if any(b != 2 * a for a, b in zip(self.inputs, self.inputs[1:], strict=False)):
            raise ValueError(f"detector.strides must double from one to the next, not {list(strides)}")
        extra = [self.inputs[-1] << i for i in range(1, extra_levels + 1)]
        self.strides = [*self.inputs, *extra]
        for stride in self.inputs:
            self.add_module(f"fpn_lateral{level_of(stride)}", _convolution(channels[stride], width, 1))
            self.add_module(f"fpn_output{level_of(stride)}", _convolution(width, width, 3, padding=1))
        self.top_block = nn.ModuleDict(
            {f"p{level_of(stride)}": _convolution(width, width, 3, stride=2, padding=1) for stride in extra}
        )

    def shapes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(H, W) of the levels of a batch of this size."""
        return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in self.strides]

    def forward(self, features: Mapping[int, Tensor]) -> list[Tensor]:
        """The levels (n, width, H, W), finest first, of features (n, C, H, W) by stride."""
        levels: list[Tensor] = []
        merged: Tensor | None = None
        for stride in reversed(self.inputs):
            lateral = getattr(self, f"fpn_lateral{level_of(stride)}")(features[stride])
            merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            levels.insert(0, getattr(self, f"fpn_output{level_of(stride)}")(merged))
        for index, convolution in enumerate(self.top_block.values()):
            levels.append(convolution(F.relu(levels[-1]) if index else levels[-1]))
        return levels


def _convolution(inputs: int, outputs: int, kernel: int, **options: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, **options)  # type: ignore[arg-type]
    nn.init.kaiming_uniform_(layer.weight, a=1)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
