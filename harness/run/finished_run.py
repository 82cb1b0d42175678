"""A finished run: its configuration, its data and its frozen detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import backbones
import methods
from harness.compose import check
from harness.config import Precision, RunConfig
from harness.data.dataset import Dataset
from harness.data.pool.pool import InstancePool
from harness.engine import create
from harness.engine.contract import Engine
from harness.errors import UserError, first_line
from harness.record.names import find_record
from harness.record.reading import read_yaml
from harness.record.record import Record
from harness.run.named_code import is_code, refuse_strange_code
from harness.training import checkpoint


@dataclass(frozen=True)
class FinishedRun:
    """`config` is the run's own."""

    runs: Path
    record: Record
    config: RunConfig

    @property
    def folder(self) -> Path:
        return self.runs / self.record.run_id

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.config.data)

    @cached_property
    def prepared_pool(self) -> InstancePool:
        """The pool as the run's method prepared it, which the decision log's rows count in."""
        return self.dataset.prepared_pool(self.config.method, self.config.seed)

    def engine(self, device: torch.device, *, evaluated: bool = False) -> Engine:
        """The detector with the run's final weights, in full precision. Raises UserError when it has left none.

        `evaluated`: with the weights that were evaluated, the moving average if there is one.
        """
        dataset, config = self.dataset, in_full_precision(self.config)
        engine = create(config, dataset.num_classes, dataset.train.image_counts)
        engine.module.to(device)
        weights = checkpoint.load_final(self.folder / "checkpoint", device)
        if weights is not None:
            average = weights.get("model_ema") if evaluated else None
            engine.module.load_state_dict(average or weights["model"])
        elif not self.config.train and self.config.weights:
            engine.load(Path(self.config.weights))
        else:
            raise UserError(f"{self.record.run_id} left no weights in {self.folder / 'checkpoint'}")
        return engine


def in_full_precision(config: RunConfig) -> RunConfig:
    """A configuration for a detector that only predicts."""
    schedule = dataclasses.replace(config.schedule, precision=Precision.fp32, channels_last=False)
    return dataclasses.replace(config, schedule=schedule)


def finished_run(runs: Path, run: str, trusted: Iterable[Path] = ()) -> FinishedRun:
    """A run by its id, or by an unambiguous beginning of it.

    Files of code that its record names are executed only if they are among the `trusted`. Raises UserError.
    """
    try:
        record = find_record(runs, run)
    except ValueError as error:
        raise UserError(str(error)) from error
    path = runs / record.run_id / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the run ended before training began; `harness status {record.run_id}` says why"
        )
    plugins = record.settings.get("method_paths") or []
    refuse_strange_code(record.run_id, plugins, trusted)
    try:
        for plugin in plugins:
            methods.load_file(plugin)
        method, backbone = (
            room.find(record.settings.get(name, "")) for room, name in ((methods, "method"), (backbones, "backbone"))
        )
        tree = OmegaConf.structured(RunConfig(method=method(), backbone=backbone()))
        config = OmegaConf.to_object(OmegaConf.merge(tree, OmegaConf.create(read_yaml(path))))
        assert isinstance(config, RunConfig)
        check(config)
    except (ValueError, LookupError, TypeError, OmegaConfBaseException, OSError) as error:
        raise UserError(f"{path} is not the configuration of a run ({first_line(error)})") from error
    further = [text for text in (config.engine.config, config.stage.by) if text is not None and is_code(text)]
    refuse_strange_code(record.run_id, further, trusted)
    return FinishedRun(runs, record, config)
