"""The mmdet engine's own share of a training step: python -m tests.benchmarks.engine_mmdet [--size 256] [--steps 3].

Mask R-CNN R50-FPN for LVIS, two images. Within each step, what is spent in mmdet's and torch's calls (preprocessing,
backbone and neck, the heads' losses, the backward pass) is timed where they are called; the rest is the engine's own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.compose import compose
from harness.config import EngineConfig
from harness.engine import create
from harness.training.torch_settings import prepare_torch
from methods.contract import Proposals
from tests.engine.mmdet_models import make_view


class Clock:
    """Seconds in the calls of what it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - begun

        return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    config = compose(["engine=mmdet", "schedule.precision=fp32", "schedule.channels_last=false"]).config
    prepare_torch(config)
    overrides = ["model.backbone.init_cfg=null"]
    config.engine = EngineConfig("mmdet", "mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1", overrides)
    engine = create(config, 1203, np.full(1203, 10))
    upstream = Clock()
    module = engine.module
    for owner, name in (
        (module.data_preprocessor, "forward"),
        (module, "extract_feat"),
        (module.rpn_head, "loss_and_predict"),
        (module.roi_head, "loss"),
    ):
        setattr(owner, name, upstream.timed(getattr(owner, name)))
    views = [make_view(8, seed, (options.size, options.size)) for seed in range(2)]
    for view in views:
        view.targets.labels %= 1203
    for step in range(options.steps):
        begun, before = time.perf_counter(), upstream.seconds
        total = engine.losses(views, Proposals.SAMPLED, torch.Generator().manual_seed(step)).total()
        forward = time.perf_counter() - begun
        total.backward()
        whole = time.perf_counter() - begun
        own = forward - (upstream.seconds - before)
        print(f"step {step}: {whole:.2f} s, of which the engine's own {1000 * own:.1f} ms = {100 * own / whole:.2f} %")


if __name__ == "__main__":
    main()
