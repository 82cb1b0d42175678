"""A small detector and synthetic views, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

import backbones
from harness.config import DetectorConfig, EngineConfig, Precision, RunConfig, ScheduleConfig
from harness.data.sample import Masks, Targets, View
from harness.engine.native import NativeEngine, build

SIZE = 96


def small_config(**changes: Any) -> DetectorConfig:
    small = DetectorConfig(
        strides=[4, 8, 16],
        extra_levels=0,
        channels=32,
        head_convs=1,
        head_groups=8,
        size_ranges=[[0.0, 24.0], [16.0, 48.0], [32.0, 1.0e7]],
        heatmap_min_radius=2.0,
        pre_nms_train=100,
        post_nms_train=48,
        pre_nms_test=60,
        post_nms_test=30,
        stage_ious=[0.5, 0.6],
        proposals_per_image=24,
        positive_fraction=0.5,
        fc_layers=1,
        fc_width=64,
        mask_convs=1,
        mask_channels=16,
        mask_resolution=7,
        detections=40,
    )
    return replace(small, **changes)


def small_engine(
    classes: int = 12,
    counted: int | None = None,
    backbone: str = "resnet18",
    precision: Precision = Precision.fp32,
    channels_last: bool = False,
    **changes: Any,
) -> NativeEngine:
    torch.manual_seed(0)
    member = backbones.find(backbone)()
    if backbone == "resnet18":
        member.width = 0.25
    config = RunConfig(
        detector=small_config(**changes),
        engine=EngineConfig(),
        schedule=ScheduleConfig(
            iterations=1, global_batch=1, batch_per_rank=1, lr=1.0, precision=precision, channels_last=channels_last
        ),
        backbone=member,
    )
    return build(config, classes, np.full(counted or classes, 50, np.int64))


def view(
    seed: int, instances: int = 4, size: tuple[int, int] = (SIZE, SIZE), classes: int = 6, pasted: int = 1
) -> View:
    """A noisy image with coloured ellipses, whose colour tells their class; the last `pasted` count as pasted."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = rng.integers(0, 80, (3, height, width), dtype=np.uint8)
    full = np.zeros((instances, height, width), np.uint8)
    labels = rng.integers(0, classes, instances)
    rows, columns = np.mgrid[:height, :width]
    for i, label in enumerate(labels):
        w, h = rng.integers(14, 40, 2)
        x, y = rng.integers(0, width - w), rng.integers(0, height - h)
        inside = ((columns + 0.5 - x - w / 2) / (w / 2)) ** 2 + ((rows + 0.5 - y - h / 2) / (h / 2)) ** 2 <= 1
        full[:i, inside] = 0
        full[i] = inside
        image[:, inside] = np.array([255 * label // classes, 255 - 255 * label // classes, 200])[:, None]
    masks = Masks.from_full(torch.from_numpy(full))
    seen = torch.from_numpy(full.any((1, 2)))
    boxes = [
        [columns[m > 0].min(), rows[m > 0].min(), columns[m > 0].max() + 1, rows[m > 0].max() + 1]
        if m.any()
        else [0] * 4
        for m in full
    ]
    targets = Targets(
        boxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        labels=torch.from_numpy(labels),
        masks=masks,
        pasted=torch.arange(instances) >= instances - pasted,
        pool_row=torch.full((instances,), -1),
    )
    return View(torch.from_numpy(image), targets[seen])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
