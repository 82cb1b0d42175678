"""The published configurations with the golden weights, fed as `rules.py` says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import backbones
from harness.config import DetectorConfig
from harness.data.sample import Masks, Targets
from harness.detector.centernet2 import CenterNet2
from harness.weights.published_names import published
from tests.golden import rules

CLASSES = 1203
FOLDERS = [Path(__file__).parent, *([Path(os.environ["GOLDEN_DIR"])] if os.environ.get("GOLDEN_DIR") else [])]


def golden_files(*prefixes: str) -> list[Path]:
    """Files of golden figures whose names start so, shipped ones and those held back."""
    return [file for folder in FOLDERS for file in sorted(folder.glob("*.npz")) if file.name.startswith(prefixes)]


def detector(backbone: str, salt: int) -> CenterNet2:
    """CenterNet2 as published, weights by rule, in float32 on the CPU."""
    config = DetectorConfig()
    trunk = backbones.find(backbone)().build(config.strides)
    module = CenterNet2(config, trunk, CLASSES, np.ones(CLASSES, np.int64))
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            shape = tuple(tensor.shape)
            their_name = published(name, resnet=backbone.startswith("resnet"))
            tensor.copy_(torch.from_numpy(rules.weight(their_name, shape, salt)))
    return module


def image(height: int, width: int, seed: int) -> Tensor:
    """(3, H, W) RGB in 0..255, whole numbers."""
    noise = torch.from_numpy(rules.coarse_noise(height, width, seed))[None]
    threads = torch.get_num_threads()
    # PyTorch has another kernel for one thread, which rounds a few pixels the other way: 1e-5 in the features.
    torch.set_num_threads(max(threads, 2))
    resized = F.interpolate(noise, (height, width), mode="bilinear", align_corners=True)[0]
    torch.set_num_threads(threads)
    return resized.round().clamp(0, 255)


def targets(height: int, width: int, seed: int, count: int, pasted: int = 0) -> Targets:
    """Targets by rule, each mask its box; the last `pasted` are pasted ones."""
    boxes, labels = rules.targets(height, width, seed, count, CLASSES)
    full = torch.zeros(count, height, width, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(full, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = 1
    return Targets(
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        masks=Masks.from_full(full),
        pasted=torch.arange(count) >= count - pasted,
        pool_row=torch.full((count,), -1),
    )


def keep_all(foreground: Tensor, present: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """In place of the proposal sampler: every proposal."""
    return torch.arange(present.shape[1]).expand(len(present), -1), present


def keep_by_rule(foreground: Tensor, present: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """In place of the proposal sampler: `rules.sampled`."""
    chosen = [
        torch.from_numpy(rules.sampled(matched[there].long().numpy()))
        for matched, there in zip(foreground, present, strict=True)
    ]
    indices = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    lengths = torch.tensor([len(c) for c in chosen])
    return indices, torch.arange(indices.shape[1]) < lengths[:, None]


def federated_by_rule(stage: int, appeared: Tensor, rng: torch.Generator) -> Tensor:
    """In place of the multinomial draw: `rules.federated_classes`."""
    classes = rules.federated_classes(appeared.nonzero().squeeze(1).numpy(), CLASSES)
    return torch.zeros(CLASSES, dtype=torch.bool).index_fill(0, torch.from_numpy(classes[classes < CLASSES]), True)
