"""Feature pyramid network (1612.03144) with extra levels by stride-2 convolutions on its last output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from backbones import level_of


class FPN(nn.Module):
    """Backbone features by stride to pyramid levels of equal width, finest first; `strides` are all levels'.

    torchvision's FeaturePyramidNetwork with LastLevelP6P7 computes the same, bit for bit. It is not taken because it
    draws its initial weights in another order, so that every figure of a run from a seed would change, and because its
    extra levels are two and no other number. Names are those of published files, where P3 has stride 8.
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
