"""What `determinism=strict` costs in RoIAlign's backward pass, against torchvision's, at the paper's sizes.

    python -m tests.benchmarks.deterministic_roi_align [--regions 512]

4 images of 640², so a finest level of 80 × 80 with 256 channels, and so many regions of each; milliseconds, and peak
memory on a GPU. On the CPU, where runs take torchvision's own, it shows the ratio of the arithmetic alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from harness.config import LauncherConfig, RunConfig
from harness.detector.deterministic_roi_align import DeterministicRoiAlign
from harness.training.torch_settings import prepare_torch

IMAGES, CHANNELS, SIDE, STRIDE = 4, 256, 80, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=512, help="of an image")
    count = IMAGES * parser.parse_args().regions
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_torch(RunConfig(launcher=LauncherConfig(gpus=int(device.type == "cuda"))))
    rng = torch.Generator().manual_seed(0)
    feature = torch.randn(IMAGES, CHANNELS, SIDE, SIDE, generator=rng).to(device).requires_grad_()
    corner = torch.rand(count, 2, generator=rng) * SIDE * STRIDE * 0.8
    side = 16 * torch.exp(2.0 * torch.rand(count, 2, generator=rng))
    rois = torch.cat([torch.arange(count)[:, None] % IMAGES, corner, corner + side], 1).to(device)
    native = torch.ops.torchvision.roi_align
    for name, pool in (
        ("torchvision", lambda: native(feature, rois, 1 / STRIDE, 7, 7, 0, True)),
        ("deterministic", lambda: DeterministicRoiAlign.apply(feature, rois, 7, 1 / STRIDE)),
    ):
        print(f"{name}: {backward(pool, feature, device):.0f} ms for {count} regions on {device.type}")
        if device.type == "cuda":
            print(f"  peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


def backward(pool: Callable[[], Tensor], feature: Tensor, device: torch.device) -> float:
    """Milliseconds of the quickest of three passes back."""
    quickest = float("inf")
    for _ in range(3):
        pooled = pool()
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter() if device.type == "cuda" else time.process_time()
        torch.autograd.grad(pooled.sum(), feature)
        if device.type == "cuda":
            torch.cuda.synchronize()
        quickest = min(quickest, (time.perf_counter() if device.type == "cuda" else time.process_time()) - begun)
    return 1000 * quickest


if __name__ == "__main__":
    main()
