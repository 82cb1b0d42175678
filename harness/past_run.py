"""A finished run, taken up again after its training: its configuration, its data and its frozen detector."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import OmegaConf

import backbones
import methods
from harness import checkpoint
from harness.config import DataConfig, Precision, RunConfig
from harness.data import sources
from harness.data.facts import TrainingFacts
from harness.data.lvis import Annotations, load_annotations
from harness.data.pool import InstancePool
from harness.data.pool_index import open_pool
from harness.data.training import cache_folder, prepare_pool
from harness.engine import create
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.record import Record, read_record


@dataclass(frozen=True)
class PastRun:
    """`config` is the run's own."""

    runs: Path
    record: Record
    config: RunConfig

    @property
    def folder(self) -> Path:
        return self.runs / self.record.run_id

    @cached_property
    def annotations(self) -> Annotations:
        return load_annotations(sources.train_annotations(self.config.data), cache_folder(self.config.data))

    @cached_property
    def facts(self) -> TrainingFacts:
        return TrainingFacts(self.annotations)

    @cached_property
    def prepared_pool(self) -> InstancePool:
        """The pool as the run's method prepared it, which the decision log's rows count in."""
        return prepare_pool(self.config, self.config.method, self.facts)

    def raw_pool(self, data: DataConfig) -> InstancePool:
        """A configured pool as it is. Raises UserError without one."""
        path = sources.pool(data)
        if path is None:
            raise UserError("data.pool names no pool; give one with --pool")
        return open_pool(path, data.num_classes or self.facts.num_categories, cache_folder(data))

    def engine(self, device: torch.device, *, evaluated: bool = False) -> Engine:
        """The detector with the run's final weights, in full precision. Raises UserError when it has left none.

        `evaluated`: with the weights that its figures are of, the moving average where there is one.
        """
        schedule = dataclasses.replace(self.config.schedule, precision=Precision.fp32, channels_last=False)
        classes = self.config.data.num_classes or len(self.annotations.category_ids)
        engine = create(dataclasses.replace(self.config, schedule=schedule), classes, self.annotations.image_counts)
        engine.module.to(device)
        weights = checkpoint.load_final(self.folder / "checkpoint", device)
        if weights is not None:
            average = weights.get("model_ema") if evaluated else None
            engine.module.load_state_dict(average or weights["model"])
        elif not self.config.train and self.config.weights:
            engine.load(Path(self.config.weights))
        else:
            raise UserError(f"{self.record.run_id} has left no weights below {self.folder / 'checkpoint'}")
        return engine


def past_run(runs: Path, run: str) -> PastRun:
    """A run by its id, or by a beginning of it that no other shares. Raises UserError."""
    run_id = _the_one(runs, run)
    record = read_record(runs, run_id)
    path = runs / run_id / "config.yaml"
    if record is None or not path.is_file():
        raise UserError(f"{runs / run_id} has no record yet; `harness status` says how far it is")
    for plugin in record.settings.get("method_paths") or []:
        methods.load_file(plugin)
    method, backbone = methods.find(record.settings["method"]), backbones.find(record.settings["backbone"])
    tree = OmegaConf.structured(RunConfig(method=method(), backbone=backbone()))
    config = OmegaConf.to_object(OmegaConf.merge(tree, OmegaConf.load(path)))
    assert isinstance(config, RunConfig)
    return PastRun(runs, record, config)


def _the_one(runs: Path, run: str) -> str:
    if (runs / run).is_dir():
        return run
    found = sorted(path.name for path in runs.glob(f"{run}*") if (path / "config.yaml").is_file())
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{run} is the beginning of {len(found)} runs in {runs}: {', '.join(found[:5])}"
        if found
        else f"there is no run {run} in {runs}; `harness status` lists them"
    )
