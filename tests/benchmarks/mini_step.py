"""What a training step of the embedded dataset costs, and where: `docs/explanation/performance.md`.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.mini_step [--steps 10] [OVERRIDE ...]

CPU time of one thread, which other jobs inflate less than wall time. `ONEDNN_MAX_CPU_ISA=AVX512_CORE` in front shows a
processor without native bf16. What the embedded dataset was before:

    schedule.precision=bf16 data.size=128 detector.channels=64 detector.mask_channels=64 detector.proposals_per_image=32
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from harness.compose import compose
from harness.data.sample import Batch
from harness.training.distributed import Ranks
from harness.training.loop import Trainer
from tests.small_training import setup

WARM = 2  # steps that are not counted
PROFILED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    total = WARM + options.steps + PROFILED + 1
    config = compose(["recipe=mini", *options.overrides, "data.workers=0", f"schedule.iterations={total}"]).config
    engine, method, batches = setup(config)
    started = time.process_time()
    source = batches(0)
    taken = [next(source) for _ in range(total - 1)]
    per_batch = (time.process_time() - started) / len(taken)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, engine, method, Ranks(), Path(folder))
        step = partial(_run, trainer)
        step(taken[:WARM])
        per_step = step(taken[WARM : WARM + options.steps]) / options.steps
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            step(taken[-PROFILED:])
    print(f"{per_step:.3f} s of CPU a step, {per_batch:.3f} s a batch; means of {options.steps}")
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


def _run(trainer: Trainer, batches: Sequence[Batch]) -> float:
    """Seconds of CPU."""
    started = time.process_time()
    trainer.run(iter(batches), lambda line: None)
    return time.process_time() - started


if __name__ == "__main__":
    main()
