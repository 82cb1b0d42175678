"""All that is to be seen on a GPU, in one go: `docs/how-to/gpus.md`.

    python -m tests.benchmarks.gpu_suite [--seconds 480]

A step of ResNet-50 and Swin-L, plain and with BSGAL, with and without each option, peak memory and the profile of each
configuration's first; then a short run end to end on the embedded dataset with `launcher.gpus=1`. What does not fit in
the time is said to be left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import torch

STEP = [sys.executable, "-m", "tests.benchmarks.training_step", "--full"]
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("determinism=strict",),
    ("schedule.tf32=true",),
    ("schedule.cudnn_benchmark=true",),
    ("schedule.channels_last=true",),
    ("detector.autocast_heads=true",),
    ("schedule.compile=true",),
)
RUN = ["method=bsgal", "data.pool=half_bad", "launcher.gpus=1", "schedule.iterations=100", "data.workers=4"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0)
    end = time.monotonic() + parser.parse_args().seconds
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU; tests.benchmarks.training_step runs on the CPU")
    with tempfile.TemporaryDirectory() as runs:
        show([sys.executable, "-m", "harness.run", *RUN, f"runs_dir={runs}"], end)
    show([sys.executable, "-m", "tests.benchmarks.deterministic_roi_align"], end)
    for backbone in ("resnet50", "swin_l"):
        for method in (["baseline"], ["bsgal"], ["bsgal", "method.mode=paste_or_ori"]):
            for options in OPTIONS if method == ["baseline"] else OPTIONS[:2]:
                name, further = method[0], [*method[1:], *options]
                plain = [*STEP, "--backbone", backbone, "--method", name, "--profile", str(int(not options))]
                show([*plain, "--set", *further], end)


def show(command: list[str], end: float) -> None:
    left = end - time.monotonic()
    said = " ".join(command[2:])
    if left < 20:
        print(f"== {said}: left out, the time is up", flush=True)
        return
    print(f"== {said}", flush=True)
    try:
        done = subprocess.run(command, timeout=left)
        if done.returncode:
            print(f"== failed with status {done.returncode}", flush=True)
    except subprocess.TimeoutExpired:
        print("== the time is up", flush=True)


if __name__ == "__main__":
    main()
