"""The memory that mask targets of a dense image need: 300 instances, one of them as large as the image.

    python -m tests.benchmarks.mask_targets [--side 896]

In windows taken in turn, and beside it in all windows at once. Memory is the process's peak (Linux), above what it is
with the masks made; each in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch

from harness.config import RunConfig
from harness.data.sample import Masks
from harness.detector import mask_head
from harness.training.torch_settings import prepare_torch

INSTANCES, REGIONS = 300, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=896)
    side = parser.parse_args().side
    context = multiprocessing.get_context("spawn")
    for name, most in (("in turn", mask_head.MOST_PIXELS), ("at once", 2**62)):
        process = context.Process(target=measure, args=(name, most, side))
        process.start()
        process.join()


def measure(name: str, most: int, side: int) -> None:
    prepare_torch(RunConfig())
    mask_head.MOST_PIXELS = most
    rng = torch.Generator().manual_seed(0)
    crops = torch.zeros(INSTANCES, side, side, dtype=torch.uint8)
    crops[0] = 1
    crops[1:, :40, :40] = 1
    origin = torch.cat([torch.zeros(1, 2), torch.rand(INSTANCES - 1, 2, generator=rng) * (side - 40)]).int()
    corner = torch.rand(REGIONS, 2, generator=rng) * (side - 60)
    boxes = torch.cat([corner, corner + 50], 1)
    instance = torch.randint(INSTANCES, (REGIONS,), generator=rng)
    before, begun = peak_mib(), time.process_time()
    mask_head.crop_and_resize(Masks(crops, origin, (side, side)), instance, boxes, 28)
    spent = time.process_time() - begun
    print(f"{name}: +{peak_mib() - before:.0f} MiB at most, {spent:.2f} s of CPU time; {INSTANCES} of {side}²")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
