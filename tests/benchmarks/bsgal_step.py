"""What a selecting step costs over a plain pasting step: same detector, batch and process, medians of interleaved
repeats.

    python -m tests.benchmarks.bsgal_step [--device cuda] [--images 4] [--size 192] [--repeats 5] [--only NAME ...]

The detector is the paper's ResNet-50 CenterNet2 with the golden weights. The plain step pastes and keeps everything.
The last line is a forward pass of the augmented view without gradients: what a finite difference along the cached
gradient would cost at least, in place of the pasted loss's backward pass.
On the CPU, with one thread, the process's own time is taken, so that neighbours do not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.config import LauncherConfig, Precision, RunConfig
from harness.data.sample import Batch, Sample, View
from harness.engine.native import NativeEngine
from harness.training.distributed import Ranks
from harness.training.flat_gradient import FlatGradient
from harness.training.step import StepPosition, TrainingStep
from harness.training.torch_settings import prepare_torch
from methods.bsgal import BSGAL, Estimator, Mode
from methods.bsgal_instance import BSGALInstance
from methods.confidence import Confidence
from methods.contract import Method, Scope, Start, ViewKind
from methods.xpaste import XPaste
from tests.golden import published_detector as made

ACCEPT, REJECT = -2.0, 2.0  # thresholds below and above every cosine
FORWARD = "forward pass of the augmented view alone"

PLAIN = "plain step"

METHODS: dict[str, Method] = {
    PLAIN: XPaste(),
    "paste_only, accepted": BSGAL(tau=ACCEPT),
    "paste_only, rejected": BSGAL(tau=REJECT),
    "paste_only, scope=heads, accepted": BSGAL(tau=ACCEPT, scope=Scope.heads),
    "paste_only, scope=last, accepted": BSGAL(tau=ACCEPT, scope=Scope.last),
    "paste_only, scope=last, reference_every=8, accepted": BSGAL(tau=ACCEPT, scope=Scope.last, reference_every=8),
    "paste_or_ori, gradient": BSGAL(mode=Mode.paste_or_ori),
    "paste_or_ori, loss difference": BSGAL(mode=Mode.paste_or_ori, estimator=Estimator.loss_difference),
    "confidence": Confidence(),
    "bsgal_instance": BSGALInstance(),
}


@dataclass
class Bench:
    engine: NativeEngine
    batch: Batch
    device: torch.device

    def __post_init__(self) -> None:
        parameters = self.engine.parameters(Scope.all)
        self.flat = FlatGradient(parameters)
        self.flat.attach()
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-9, foreach=True)

    def step(self, method: Method, iteration: int) -> float:
        """Seconds of one step as the training loop takes it."""
        begun = self._now()
        step = TrainingStep(self.engine, self.batch, StepPosition(0, iteration, 1000), Ranks())
        selection = method.select(step)
        losses = step.batch_losses(step.trained_table(selection))
        if selection.gradient is not None:
            self.flat.buffer.copy_(selection.gradient)
        else:
            self.flat.backward(torch.stack(list(losses.values())).sum())
        self.flat.buffer.clamp_(-1, 1)
        self.optimizer.step()
        return self._now() - begun

    def forward(self) -> float:
        """Seconds of the augmented view's losses without gradients."""
        begun = self._now()
        step = TrainingStep(self.engine, self.batch, StepPosition(0, 0, 1000), Ranks())
        step.losses(ViewKind.AUGMENTED, grad=False).total()
        return self._now() - begun

    def forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the resident set's high-water mark starts anew

    def peak(self) -> float:
        """GiB: of tensors on a GPU, of the whole process on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def batch_of(images: int, size: int, device: torch.device) -> Batch:
    def view(seed: int, count: int, pasted: int = 0) -> View:
        return View(made.image(size, size, seed).to(torch.uint8), made.targets(size, size, seed, count, pasted))

    samples = [
        Sample(i, i, view(10 * i + 1, 8), view(10 * i, 16, pasted=8), (view(10 * i + 5, 8),)) for i in range(images)
    ]
    return Batch(samples).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], help="beside the plain step, rows whose names begin so")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="fp32")
    options = parser.parse_args()
    device = torch.device(options.device)
    prepare_torch(RunConfig(launcher=LauncherConfig(gpus=int(device.type == "cuda"))))
    engine = NativeEngine(made.detector("resnet50", 1).to(device), Precision[options.precision], channels_last=False)
    bench = Bench(engine, batch_of(options.images, options.size, device), device)
    rows = [name for name in [*METHODS, FORWARD] if name == PLAIN or name.startswith(tuple(options.only))]
    methods = {name: METHODS[name] for name in rows if name in METHODS}
    for method in methods.values():
        method.start(Start(1000, device, options.images, dataset=None, pool=None))  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = defaultdict(list)
    peak: dict[str, float] = {}
    for repeat in range(options.repeats + 1):  # the first warms up
        for name in rows:
            bench.forget_peak()
            seconds[name].append(bench.step(methods[name], repeat) if name in methods else bench.forward())
            peak[name] = bench.peak()
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    plain = medians[PLAIN]
    for name, median in medians.items():
        print(f"{name:<52} {median:8.3f} s  {median / plain:5.2f} x, peak {peak[name]:.2f} GiB")


if __name__ == "__main__":
    main()
