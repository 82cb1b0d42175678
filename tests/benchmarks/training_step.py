"""Where the time of a training step goes, at the paper's ResNet-50 configuration: `docs/explanation/performance.md`.

    python -m tests.benchmarks.training_step [--full] [--method bsgal] [--steps 3] [--set determinism=strict ...]

Without --full, images and proposals are few, for a CPU; --full takes 4 images of 640² (Swin-L: 2 of 896²) and 512
proposals each, for a GPU. Parts are timed inside the same steps, so the harness's own share is no difference of two
noisy figures. The operations' table comes from further steps under PyTorch's profiler, which slows them.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from harness.compose import compose
from harness.data.sample import Batch
from harness.training.distributed import Ranks
from harness.training.flat_gradient import FlatGradient
from harness.training.loop import Trainer
from tests.small_training import setup

CLASSES = 1203
PARTS = ("forward", "backward", "optimiser", "average of weights", "method", "next batch", "harness")


class Stopwatch:
    """Exclusive seconds of nested named parts, with the device's queue emptied at every border."""

    def __init__(self, on_gpu: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[str] = []
        self.on_gpu = on_gpu
        self.since = time.perf_counter()

    def switch(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.inside:
            self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            self.switch()
            self.inside.append(part)
            try:
                return function(*arguments, **options)
            finally:
                self.switch()
                self.inside.pop()

        return run

    def batches(self, source: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(source)
        take = self.timed("next batch", lambda: next(iterator, None))
        while (batch := take()) is not None:
            yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's sizes")
    parser.add_argument("--method", default="baseline")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="steps that are not counted")
    parser.add_argument("--precision", default=None, help="fp32 on a CPU and fp16 on a GPU without it")
    parser.add_argument("--set", nargs="*", default=[], help="further options of the run: determinism=strict ...")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch, each of the images said above")
    parser.add_argument("--profile", type=int, default=1, help="steps under the profiler, 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer, batches = prepare(options, folder, device)
    watch = Stopwatch(device == "cuda")
    source = watch.batches(batches(0))
    run = functools.partial(trainer.run, progress=lambda line: None)
    parts = trainer.schedule.accumulate
    run(_first(source, options.warm * parts))
    watched(trainer, watch)
    watch.seconds.clear()
    watch.timed("harness", run)(_first(source, options.steps * parts))
    report(watch.seconds, options.steps, device, trainer)
    if options.profile:
        gpu = [ProfilerActivity.CUDA] if device == "cuda" else []
        with profile(activities=[ProfilerActivity.CPU, *gpu]) as profiler:
            run(_first(source, options.profile * parts))
        by = "self_cuda_time_total" if gpu else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=by, row_limit=16, max_name_column_width=44))


def prepare(options: argparse.Namespace, folder: Path, device: str) -> tuple[Trainer, Callable[[int], Iterator[Batch]]]:
    steps = options.warm + options.steps + options.profile + 1
    large = options.backbone == "swin_l"
    full = (896, 2, 512) if large else (640, 4, 512)
    size, images, proposals = full if options.full else (192, 2, 128)
    schedule = "paper_swin_l" if large else "paper"
    overrides = [
        "detector=centernet2",
        f"schedule={schedule}",
        f"backbone={options.backbone}",
        f"method={options.method}",
    ]
    overrides += ["data=mini", "data.scale_min=0.1", "data.scale_max=2.0", f"data.num_classes={CLASSES}"]
    overrides += [f"data.size={size}", "data.workers=2", f"detector.proposals_per_image={proposals}"]
    overrides += [
        f"schedule.iterations={steps}",
        f"schedule.batch_per_rank={images}",
        f"schedule.global_batch={images * options.accumulate}",
        f"schedule.accumulate={options.accumulate}",
    ]
    overrides += [f"schedule.precision={options.precision or ('fp16' if device == 'cuda' else 'fp32')}"]
    overrides += [f"launcher.gpus={int(device == 'cuda')}"]
    config = compose([*overrides, *options.set]).config
    engine, method, batches = setup(config, device=device)
    return Trainer(config, engine, method, Ranks(), folder), batches


def watched(trainer: Trainer, watch: Stopwatch) -> None:
    """Puts the stopwatch around the parts that are not the harness's own."""
    trainer.engine.losses = watch.timed("forward", trainer.engine.losses)  # type: ignore[method-assign]
    FlatGradient.add = watch.timed("backward", FlatGradient.add)  # type: ignore[method-assign]
    trainer.optimizer.step = watch.timed("optimiser", trainer.optimizer.step)  # type: ignore[method-assign]
    trainer.method.select = watch.timed("method", trainer.method.select)  # type: ignore[method-assign]
    if trainer.ema is not None:
        trainer.ema.update_parameters = watch.timed("average of weights", trainer.ema.update_parameters)  # type: ignore[method-assign]


def _first(source: Iterator[Batch], count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield next(source)


def report(seconds: Mapping[str, float], steps: int, device: str, trainer: Trainer) -> None:
    total = sum(seconds.values())
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, 1 thread, load {os.getloadavg()[0]:.1f}"
    schedule, data = trainer.config.schedule, trainer.config.data
    proposals = trainer.config.detector.proposals_per_image
    print(f"{name}; torch {torch.__version__}")
    print(f"determinism={trainer.config.determinism.value}, {torch.backends.cudnn.benchmark=}, {schedule.tf32=}")
    print(f"{schedule.batch_per_rank} images of {data.size}², {proposals} proposals each, {schedule.precision.value}")
    print(f"{total / steps:.3f} s a step, {steps} steps")
    for part in PARTS:
        print(f"  {part:<20}{seconds.get(part, 0.0) / steps:>9.4f} s{seconds.get(part, 0.0) / total:>8.2%}")
    if device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
