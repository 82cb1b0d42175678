"""What the result of a run depends on, and the name that follows from it.

The same experiment has the same run_id everywhere: fields that equal their defaults are left out, contents take the
place of paths, and where or how fast a run is executed does not count.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import backbones
import methods
from harness.compose import plain
from harness.config import RunConfig, Stage, StageConfig
from harness.data.dataset import Dataset
from harness.data.fingerprint import fingerprint
from harness.data.paste.area_statistics import statistics_file
from harness.data.pool.packed import SUFFIX, packed_fingerprint
from harness.engine.config_files import files_named, files_read, own_file
from harness.errors import UserError
from harness.record.record import run_id
from harness.stages.own_rule import read_rule
from harness.stages.scoring import is_file
from methods.contract import Method

# Fields of ScheduleConfig, EvaluationConfig and DataConfig that change cost or bookkeeping, not results.
_SCHEDULE_BOOKKEEPING = {
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "archive",
    "log_every",
    "profile",
}
# What of StageConfig counts; a sweep may set all of it for all of its runs.
_STAGE_OPTIONS = {
    Stage.none: set(),
    Stage.score: {field.name for field in dataclasses.fields(StageConfig)} - {"size"},
    Stage.embed: {"name", "size"},
}
_EVALUATION_BOOKKEEPING = {"every", "best", "save_minutes"}
_DATA_PLACES = {"root", "train_annotations", "val_annotations", "pool", "area_statistics", "workers", "cache"}


def identify(config: RunConfig) -> str:
    """The run_id. Makes the embedded dataset where it is asked for, since fingerprints depend on contents.

    Raises UserError for annotations, pools or weights that do not exist.
    """
    backbone = backbones.name_of(type(config.backbone))
    # A stage works through the pool as it is, whatever the method.
    does = methods.name_of(type(config.method)) if _is_run(config) else config.stage.name.name
    return run_id(f"{does}-{backbone}-s{config.seed}", _identity(config, does, backbone))


def fingerprints(config: RunConfig) -> dict[str, str]:
    """SHA-256 of the contents that a run reads: annotations, pool with its columns, area statistics, weights, plugin,
    and the engine's own configuration with its bases.

    A file that a needed run writes has that run's name in their place, since it may not exist yet.
    """
    _refuse_undeclared(config.method)
    dataset = Dataset(config.data)
    method, reads_pool = config.method, config.method.pastes or not _is_run(config)
    options = method.files() if _is_run(config) else {}
    made = {what: f"{run}/{path.name}" for what, path in options.items() if (run := maker_of(path, config))}
    files: dict[str, Path | None] = {
        "train_annotations": dataset.train_file,
        "val_annotations": dataset.val_file,
        "pool": dataset.pool_file if reads_pool else None,
        "pool_columns": dataset.pool_columns_file if reads_pool else None,
        "area_statistics": statistics_file(config.data.area_statistics) if reads_pool else None,
        "weights": Path(config.weights) if config.weights else None,
        **_engine_files(config),
        "backbone.weights": Path(config.backbone.weights) if config.backbone.weights else None,
        **{f"method.{option}": path for option, path in options.items() if option not in made},
    }
    for what, path in files.items():
        if path is not None and not path.is_file():
            raise UserError(f"{what}: {path} does not exist")
    found = {
        what: packed_fingerprint(path) if path.suffix == SUFFIX else fingerprint(path)
        for what, path in files.items()
        if path is not None
    }
    found |= {f"method.{option}": text for option, text in made.items()}
    if _scores_by_file(config):
        found["stage.by"] = read_rule(Path(config.stage.by)).fingerprint
    plugin = methods.source_fingerprint(type(method)) if _is_run(config) else None
    return {**found, "plugin": plugin} if plugin else found


def maker_of(path: Path, config: RunConfig) -> str | None:
    """The needed run whose folder holds a file, or will; None for any other file."""
    run = path.parent.name
    return run if run in config.needed_runs and path.parent.parent == Path(config.runs_dir) else None


def _is_run(config: RunConfig) -> bool:
    return config.stage.name is Stage.none


def _scores_by_file(config: RunConfig) -> bool:
    return config.stage.name is Stage.score and is_file(config.stage.by)


def _refuse_undeclared(method: Method) -> None:
    """Raises UserError for an option that names a file whose contents are not part of the run's name."""
    declared = method.files()
    for option in dataclasses.fields(method):
        value = getattr(method, option.name)
        for text in value if isinstance(value, list | tuple) else [value]:
            if option.name not in declared and isinstance(text, str | Path) and _exists(Path(text)):
                raise UserError(
                    f"method.{option.name}={text} is a file whose contents are not part of the run's name: "
                    f"{type(method).__name__}.files() must return {{'{option.name}': Path(self.{option.name})}}"
                )


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that no file can be named
        return False


def _identity(config: RunConfig, method: str, backbone: str) -> dict[str, Any]:
    differing = _difference(plain(config), plain(_defaults(config)))
    places = {
        "schedule": _SCHEDULE_BOOKKEEPING,
        "evaluation": _EVALUATION_BOOKKEEPING,
        "data": _DATA_PLACES,
        "backbone": {"weights"},
    }
    for group, ignored in places.items():
        for name in ignored:
            differing.get(group, {}).pop(name, None)
    if not differing.get("evaluation", True):  # others stay when emptied, so that old names hold
        del differing["evaluation"]
    for option in config.method.files():
        differing.get("method", {}).pop(option, None)
    for name in set(differing.get("stage", {})) - _STAGE_OPTIONS[config.stage.name]:
        del differing["stage"][name]
    if _is_run(config):
        differing.pop("stage", None)
    else:
        for name in ("schedule", "evaluation", "method", "train", "needed_runs"):
            differing.pop(name, None)
    if _scores_by_file(config):
        differing["stage"].pop("by")
    if own_file(config.engine.config):
        differing.get("engine", {}).pop("config", None)
    if config.engine.overrides:
        differing.get("engine", {})["overrides"] = [_without_paths(text) for text in config.engine.overrides]
    for name in ("runs_dir", "trackers", "launcher", "name", "weights", "method_paths"):
        differing.pop(name, None)
    # Sums on a GPU do not depend on the CPU's threads, nor those on the CPU on what only a GPU has.
    for name in ["threads"] if config.launcher.gpus > 0 else ["determinism"]:
        differing.pop(name, None)
    return {**differing, "method_name": method, "backbone_name": backbone, "contents": fingerprints(config)}


def _engine_files(config: RunConfig) -> dict[str, Path]:
    """Files that `engine.config` reads, where it is the user's own, and that `engine.overrides` name."""
    own = own_file(config.engine.config)
    read = files_read(own) if own else []
    named = [Path(file) for text in config.engine.overrides for file in files_named(text)]
    return {
        **{f"engine_config.{place}" if place else "engine_config": path for place, path in enumerate(read)},
        **{f"engine_overrides.{place}": path for place, path in enumerate(named)},
    }


def _without_paths(override: str) -> str:
    """An override with a word in place of each file that it names, whose contents count."""
    for file in files_named(override):
        override = override.replace(file, "<file>")
    return override


def _defaults(config: RunConfig) -> RunConfig:
    """The schema's own defaults, with the chosen method and backbone at theirs."""
    return dataclasses.replace(RunConfig(), method=type(config.method)(), backbone=type(config.backbone)())


def _difference(value: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Nested entries of `value` that differ from `default`; empty dictionaries left out."""
    differing: dict[str, Any] = {}
    for key, own in value.items():
        other = default.get(key)
        if isinstance(own, dict) and isinstance(other, dict):
            nested = _difference(own, other)
            if nested:
                differing[key] = nested
        elif own != other:
            differing[key] = own
    return differing
