"""The backbones that come with the harness, as configuration. The networks are in `resnet.py` and `swin.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from backbones.registry import register

if TYPE_CHECKING:
    from torch import nn


@register("resnet50")
@dataclass
class ResNet50:
    """ResNet-50 with frozen batch norm, the stride in the 3x3 convolution (published: ImageNet-21k, MIIL)."""

    pretrained: ClassVar[str] = "ImageNet-21k's (MIIL)"
    weights: str | None = None
    frozen_norm: bool = True
    stochastic_depth: float = 0.0

    def build(self, strides: Sequence[int], activation_checkpointing: bool = False) -> nn.Module:
        from backbones.resnet import ResNetTrunk

        return ResNetTrunk(
            strides,
            bottleneck=True,
            depths=(3, 4, 6, 3),
            widths=(64, 128, 256, 512),
            frozen_norm=self.frozen_norm,
            stochastic_depth=self.stochastic_depth,
            activation_checkpointing=activation_checkpointing,
        )


@register("resnet18")
@dataclass
class ResNet18:
    """ResNet-18 with trained batch norm; slim by its width, for the embedded dataset on a CPU."""

    weights: str | None = None
    width: float = 0.5
    frozen_norm: bool = False
    stochastic_depth: float = 0.0

    def build(self, strides: Sequence[int], activation_checkpointing: bool = False) -> nn.Module:
        from backbones.resnet import ResNetTrunk

        return ResNetTrunk(
            strides,
            bottleneck=False,
            depths=(2, 2, 2, 2),
            widths=tuple(max(8, round(self.width * width / 8) * 8) for width in (64, 128, 256, 512)),
            frozen_norm=self.frozen_norm,
            stochastic_depth=self.stochastic_depth,
            activation_checkpointing=activation_checkpointing,
        )


@register("swin_l")
@dataclass
class SwinL:
    """Swin-L, window 12 (published: ImageNet-22k at 384²); a layer norm on each output."""

    pretrained: ClassVar[str | None] = "ImageNet-22k's at 384²"
    weights: str | None = None
    embed: int = 192
    depths: list[int] = field(default_factory=lambda: [2, 2, 18, 2])
    heads: list[int] = field(default_factory=lambda: [6, 12, 24, 48])
    window: int = 12
    stochastic_depth: float = 0.3

    def build(self, strides: Sequence[int], activation_checkpointing: bool = False) -> nn.Module:
        from backbones.swin import SwinTrunk

        return SwinTrunk(
            strides,
            embed=self.embed,
            depths=self.depths,
            heads=self.heads,
            window=self.window,
            stochastic_depth=self.stochastic_depth,
            activation_checkpointing=activation_checkpointing,
        )


@register("swin_mini")
@dataclass
class SwinMini(SwinL):
    """A small Swin for the embedded dataset on a CPU."""

    pretrained = None
    embed: int = 32
    depths: list[int] = field(default_factory=lambda: [2, 2, 2])
    heads: list[int] = field(default_factory=lambda: [2, 4, 8])
    window: int = 4
    stochastic_depth: float = 0.05
