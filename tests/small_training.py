"""Training in this process, on the embedded dataset, small enough for a step in a fraction of a second."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.compose import compose
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.data.policies import Policies
from harness.data.sample import Batch
from harness.data.training import TrainingData, training_loader
from harness.engine import create
from harness.engine.contract import Engine
from harness.record.record import Record, Status, read_record
from harness.run.run import execute
from harness.training.distributed import Ranks
from harness.training.loop import Trainer
from harness.training.torch_settings import prepare_torch
from methods.contract import Method, Start

TINY = [
    "data.size=64",
    "data.workers=0",
    "data.test_short=64",
    "data.test_long=96",
    "detector.channels=32",
    "detector.fc_width=64",
    "detector.mask_channels=16",
    "schedule.global_batch=2",
    "schedule.batch_per_rank=2",
    "schedule.precision=fp32",
    "schedule.log_every=1",
    "schedule.warmup_iterations=2",
    "evaluation.limit=6",
]
# What a line of metrics says that differs from run to run.
TIMES = (
    "time",
    "steps_per_second",
    "recent_steps_per_second",
    "images_per_second",
    "waiting",
    "eta_seconds",
    "memory_mb",
    "memory_rank",
)


def setup(
    config: RunConfig, rank: int = 0, world: int = 1, device: str = "cpu"
) -> tuple[Engine, Method, Callable[..., Iterator[Batch]]]:
    """What a run makes before it trains: the detector, the started method, and batches from an iteration on."""
    prepare_torch(config)
    dataset = Dataset(config.data)
    torch.manual_seed(config.seed)
    engine = create(config, dataset.num_classes, dataset.train.image_counts)
    engine.module.to(device)
    method = copy.deepcopy(config.method)
    pool = dataset.prepared_pool(method, config.seed)
    data = TrainingData(dataset, config.seed, method, pool)
    start = Start(
        total_iterations=config.schedule.iterations,
        device=torch.device(device),
        images_per_rank=config.schedule.batch_per_rank,
        dataset=dataset.facts,
        pool=pool,
    )
    method.start(start)

    def batches(first: int, policies: Policies | None = None) -> Iterator[Batch]:
        return training_loader(data, config.schedule, first, rank, world, policies)

    return engine, method, batches


class SmallRun:
    """A trainer and its batches; `stop_after` iterations it is asked to stop."""

    def __init__(self, overrides: Sequence[str], folder: Path, stop_after: int | None = None) -> None:
        self.config = compose([*TINY, *overrides]).config
        self.engine, self.method, self.batches = setup(self.config)
        folder.mkdir(exist_ok=True)

        def asked() -> bool:
            return self.trainer.iteration == stop_after

        self.trainer = Trainer(self.config, self.engine, self.method, Ranks(), folder, asked)

    def run(self) -> bool:
        return self.trainer.run(self.batches(self.trainer.iteration, self.trainer.policies), lambda line: None)

    def steps(self, before: Callable[[], object] = lambda: None) -> None:
        """Step by step, with something done before each."""
        for batch in self.batches(0, self.trainer.policies):
            before()
            self.trainer._step(batch)
            self.trainer.iteration += 1


def raw(engine: Engine) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in engine.module.state_dict().items()}


@dataclass(frozen=True)
class Trained:
    """A run that is complete. Others read its folder of runs too: what is to lie beside it goes into a copy."""

    runs: Path
    record: Record


def train_baseline(runs: Path) -> Trained:
    """Twelve steps with an average of the weights, detections and TensorBoard's events; nothing when they are there."""
    steps = ["schedule.iterations=12", "schedule.lr=0.002", "schedule.ema=0.9", "trackers=[tensorboard]"]
    outcome = execute([*TINY, *steps, "evaluation.save_detections=true", f"runs_dir={runs}"])
    assert outcome.status is Status.complete
    record = read_record(runs, outcome.run_id)
    assert record is not None
    return Trained(runs, record)
