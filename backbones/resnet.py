"""ResNets as feature extractors: timm's layers, with frozen batch norm where asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops.misc import FrozenBatchNorm2d

from backbones.strides import level_of


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """Batch norm with constant statistics and affine parameters, in the input's dtype.

    torchvision's own turns half-precision activations into float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        shape = (1, -1, 1, 1)
        return torch.addcmul(shift.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape))


def _frozen_norm(channels: int, device: object = None, dtype: object = None) -> FrozenNorm:
    return FrozenNorm(channels)


class ResNetTrunk(ResNet):
    """A ResNet cut after the last stride that is asked for.

    A slim one (first width below 64) has a stem of three 3x3 convolutions in place of the 7x7 one.
    """

    def __init__(
        self,
        strides: Sequence[int],
        *,
        bottleneck: bool,
        depths: Sequence[int],
        widths: Sequence[int],
        frozen_norm: bool,
        stochastic_depth: float,
        activation_checkpointing: bool,
    ) -> None:
        stage_of = {stride: level_of(stride) - 2 for stride in strides}  # the first stage has stride 4
        stages = max(stage_of.values()) + 1
        if min(strides) < 4 or stages > len(depths):
            raise ValueError(f"a ResNet has features of stride 4, 8, 16 and 32, not {list(strides)}")
        slim = widths[0] < 64
        super().__init__(
            Bottleneck if bottleneck else BasicBlock,  # type: ignore[arg-type]
            tuple(depths[:stages]),
            channels=tuple(widths[:stages]),
            stem_type="deep" if slim else "",
            stem_width=widths[0] // 2 if slim else 64,
            norm_layer=_frozen_norm if frozen_norm else nn.BatchNorm2d,
            drop_path_rate=stochastic_depth,
            num_classes=0,
            zero_init_last=not frozen_norm,  # a frozen norm at zero would cut its branch off for good
        )
        del self.fc, self.global_pool
        self.checkpointing = activation_checkpointing
        self.stages = stages
        expansion = 4 if bottleneck else 1
        self.channels = {stride: widths[stage] * expansion for stride, stage in stage_of.items()}

    def forward(self, x: Tensor) -> dict[int, Tensor]:  # type: ignore[override]
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        features = {}
        for index in range(self.stages):
            stage = getattr(self, f"layer{index + 1}")
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False)
            else:
                x = stage(x)
            features[4 << index] = x
        return {stride: features[stride] for stride in self.channels}
