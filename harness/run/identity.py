"""What the result of a run depends on, and the name that follows from it.

The same experiment has the same run_id everywhere: fields that equal their defaults are left out, contents stand in
place of paths, and where or how fast a run is executed does not count.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import backbones
import methods
from harness.compose import plain
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.data.fingerprint import fingerprint
from harness.data.paste.area_statistics import statistics_file
from harness.engine.config_files import files_named, files_read, own_file
from harness.errors import UserError
from harness.record.record import run_id

# Fields of ScheduleConfig, EvaluationConfig and DataConfig that change cost or bookkeeping, not results.
_SCHEDULE_BOOKKEEPING = {
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "log_every",
    "profile",
    "tensorboard",
}
_EVALUATION_BOOKKEEPING = {"save_minutes"}
_DATA_PLACES = {"root", "train_annotations", "val_annotations", "pool", "area_statistics", "workers", "cache"}


def identify(config: RunConfig) -> str:
    """The run_id. Makes the embedded dataset where it is asked for, since fingerprints are of contents.

    Raises UserError for annotations, pools or weights that do not exist.
    """
    method, backbone = methods.name_of(type(config.method)), backbones.name_of(type(config.backbone))
    return run_id(f"{method}-{backbone}-s{config.seed}", _identity(config, method, backbone))


def fingerprints(config: RunConfig) -> dict[str, str]:
    """SHA-256 of the contents that a run reads: annotations, pool index, area statistics, weights, plugin, and the
    engine's own configuration with its bases."""
    dataset = Dataset(config.data)
    files: dict[str, Path | None] = {
        "train_annotations": dataset.train_file,
        "val_annotations": dataset.val_file,
        "pool": dataset.pool_file if config.method.pastes else None,
        "pool_columns": dataset.pool_columns_file if config.method.pastes else None,
        "area_statistics": statistics_file(config.data.area_statistics) if config.method.pastes else None,
        "weights": Path(config.weights) if config.weights else None,
        **_engine_files(config),
        "backbone.weights": Path(config.backbone.weights) if config.backbone.weights else None,
        **{f"method.{option}": path for option, path in config.method.files().items()},
    }
    for what, path in files.items():
        if path is not None and not path.is_file():
            raise UserError(f"{what}: {path} does not exist")
    found = {what: fingerprint(path) for what, path in files.items() if path is not None}
    plugin = methods.source_fingerprint(type(config.method))
    return {**found, "plugin": plugin} if plugin else found


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
    if own_file(config.engine.config):
        differing.get("engine", {}).pop("config", None)
    if config.engine.overrides:
        differing.get("engine", {})["overrides"] = [_without_paths(text) for text in config.engine.overrides]
    for name in ("runs_dir", "launcher", "name", "weights", "method_paths"):
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
