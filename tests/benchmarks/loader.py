"""Throughput of the training loader on the embedded dataset, images a second, by method and number of workers.

    python -m tests.benchmarks.loader [--workers 0 1 2] [--images 1600]

Every batch is taken as soon as it is there, as by a training step that takes no time. Made for the comparison within
one run: pasting, copy-paste and reference images against plain loading.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.data.training import TrainingData, training_loader
from harness.training.torch_settings import prepare_torch

METHODS = ("baseline", "copy_paste", "xpaste", "bsgal")
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1600)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    print(f"{'method':<12}" + "".join(f"{count:>4} workers" for count in arguments.workers) + "   images/s")
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            speeds = [throughput(method, workers, arguments.images, Path(folder)) for workers in arguments.workers]
            print(f"{method:<12}" + "".join(f"{speed:>12.0f}" for speed in speeds))


def throughput(method: str, workers: int, images: int, folder: Path) -> float:
    """Images a second, the start of the workers left out."""
    steps = images // BATCH
    overrides = [f"method={method}", "data=mini", f"data.root={folder / 'mini'}", f"data.workers={workers}"]
    overrides += [f"schedule.iterations={steps + 1}", f"schedule.batch_per_rank={BATCH}"]
    config = compose(overrides).config
    prepare_torch(config)
    dataset = Dataset(config.data)
    data = TrainingData(dataset, config.seed, config.method, dataset.prepared_pool(config.method, config.seed))
    batches = iter(training_loader(data, config.schedule))
    next(batches)
    begun = time.perf_counter()
    count = sum(len(batch.samples) for batch in batches)
    return count / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
