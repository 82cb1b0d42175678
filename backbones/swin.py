"""Swin Transformer (2103.14030) as a feature extractor, equal to the official detection code.

Attention and the feed-forward part are timm's, patch merging torchvision's. The block is our own: timm pads to the
window after the cyclic shift and torchvision leaves the shift out where one window covers the map, while the published
detectors pad first and always shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import PatchMerging

from backbones.strides import level_of

SEPARATED = -100.0  # added to the attention between regions that only the cyclic shift made neighbours


class SwinTrunk(nn.Module):
    """Swin cut after the last stride that is asked for, with a layer norm on each output."""

    def __init__(
        self,
        strides: Sequence[int],
        *,
        embed: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        stochastic_depth: float,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.outputs = {level_of(stride) - 2: stride for stride in strides}  # the first stage has stride 4
        stages = max(self.outputs) + 1
        if min(strides) < 4 or stages > len(depths):
            raise ValueError(f"this Swin has {len(depths)} stages from stride 4 on, not strides {list(strides)}")
        self.channels = {stride: embed << stage for stage, stride in self.outputs.items()}
        rates = [stochastic_depth * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.patch_embed = PatchEmbedding(embed)
        self.layers = nn.ModuleList(
            Stage(
                embed << i,
                heads[i],
                window,
                rates[sum(depths[:i]) : sum(depths[: i + 1])],
                merge=i + 1 < stages,
                activation_checkpointing=activation_checkpointing,
            )
            for i in range(stages)
        )
        for stage in self.outputs:
            self.add_module(f"norm{stage}", nn.LayerNorm(embed << stage))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self.patch_embed(x)
        features = {}
        for index, layer in enumerate(self.layers):
            out, x = layer(x)
            if index in self.outputs:
                norm = getattr(self, f"norm{index}")
                features[self.outputs[index]] = norm(out).permute(0, 3, 1, 2).contiguous()
        return features


class PatchEmbedding(nn.Module):
    """Images (n, 3, H, W) to tokens (n, H/4, W/4, C)."""

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(embed)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = self.proj(F.pad(x, (0, -width % 4, 0, -height % 4)))
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed


class Stage(nn.Module):
    """Blocks at one resolution; returns their output and what goes into the next stage."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        stochastic_depth: Sequence[float],
        *,
        merge: bool,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2
        self.checkpointing = activation_checkpointing
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, self.shift if i % 2 else 0, rate) for i, rate in enumerate(stochastic_depth)
        )
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = shift_mask(x.shape[1], x.shape[2], self.window, self.shift, x.device)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


class Block(nn.Module):
    """Window attention and feed-forward, each with a residual connection."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, stochastic_depth: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window_size=window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.drop_path = DropPath(stochastic_depth)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        mixed: Tensor = self.drop_path(self.mlp(self.norm2(x)))
        return x + mixed

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        size = self.window
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = x.view(n, rows, size, columns, size, channels).transpose(2, 3).reshape(-1, size * size, channels)
        x = self.attn(x, mask.to(x.dtype) if self.shift else None)
        x = x.view(n, rows, columns, size, size, channels).transpose(2, 3).reshape(n, rows * size, -1, channels)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, window², window²) float32: 0 between tokens of one region of the shifted map, -100 between others."""

    def regions(length: int) -> Tensor:
        padded = length + -length % window
        place = torch.arange(padded, device=device)
        return (place >= padded - window).long() + (place >= padded - shift).long()

    label = 3 * regions(height)[:, None] + regions(width)[None, :]
    rows, columns = label.shape[0] // window, label.shape[1] // window
    label = label.view(rows, window, columns, window).transpose(1, 2).reshape(-1, window * window)
    return torch.zeros((), device=device).where(label[:, :, None] == label[:, None, :], SEPARATED)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
