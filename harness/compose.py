"""Composing a run's configuration from overrides, with errors that name the nearest valid word."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import backbones
import methods
from harness.config import RunConfig
from harness.errors import UserError, first_line, nearest


@dataclass(frozen=True)
class Composed:
    """A validated configuration.

    settings is the resolved configuration, flattened to dotted keys, with `method` and `backbone` as names.
    """

    config: RunConfig
    settings: dict[str, Any]


def compose(overrides: Sequence[str]) -> Composed:
    """Composes and validates a run's configuration. Raises UserError with one line."""
    register_groups(overrides)
    with hydra.initialize_config_module("harness.conf", version_base="1.3"):
        try:
            tree = hydra.compose("run", list(overrides))
            return validated(tree)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error, overrides)) from error


def validated(tree: DictConfig) -> Composed:
    """The typed configuration of a composed tree, checked for options that contradict one another."""
    config = OmegaConf.to_object(tree)
    assert isinstance(config, RunConfig)
    _validate(config)
    return Composed(config, settings_of(config))


def register_groups(overrides: Sequence[str] = ()) -> None:
    """Puts methods and backbones, those of `method_paths=[...]` too, into Hydra's store of configuration groups."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "method_paths":
            for path in _list_of(value):
                _load_plugin(Path(path))
    store = ConfigStore.instance()
    store.store("run_schema", RunConfig)
    for name in methods.names():
        store.store(name, methods.find(name), group="method")
    for name in backbones.names():
        store.store(name, backbones.find(name), group="backbone")


def _list_of(value: str) -> list[str]:
    return [item.strip().strip("'\"") for item in value.strip("[]").split(",") if item.strip()]


def _load_plugin(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"method_paths: {path} does not exist; paths are relative to the folder you are in")
    try:
        methods.load_file(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def settings_of(config: RunConfig) -> dict[str, Any]:
    """The configuration flattened to dotted keys; plain values only."""
    tree = plain(config)
    flat = _flat(tree)
    flat["method"] = methods.name_of(type(config.method))
    flat["backbone"] = backbones.name_of(type(config.backbone))
    return flat


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, enums as their names, recursively."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _validate(config: RunConfig) -> None:
    schedule = config.schedule
    if schedule.batch_per_rank < 1 or schedule.global_batch % schedule.batch_per_rank:
        raise UserError(
            f"schedule.global_batch={schedule.global_batch} is not a multiple of "
            f"schedule.batch_per_rank={schedule.batch_per_rank}: the number of ranks is one divided by the other"
        )
    if config.weights and config.init_from:
        raise UserError("weights and init_from both say where to start from; give one of them")
    if not config.train and not (config.weights or config.init_from):
        raise UserError("train=false evaluates weights as they are: give weights=FILE (or init_from=RUN_ID)")
    try:
        config.method.validate()
    except ValueError as error:
        raise UserError(f"method={methods.name_of(type(config.method))}: {error}") from error


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line: the first override that names a group option or a key that does not exist, else Hydra's first line."""
    groups = group_options()
    known = _known_keys(overrides, groups)
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            return f"cannot read the override '{text}': write key=value (quote values that hold spaces or commas)"
        key, value = override.key_or_group, override.value()
        if key in groups:
            if isinstance(value, str) and value not in groups[key]:
                return f"{key}={value}: no such {key}; {nearest(value, groups[key])}"
        elif not override.is_add() and not any(key == name or name.startswith(f"{key}.") for name in known):
            kind = f" for method={_chosen(overrides)}" if key.startswith("method.") else ""
            names = [*known, *groups]
            return f"{text}: no such key '{key}'{kind}; {nearest(key, names)}"
    return _first_words(error)


def _first_words(error: BaseException) -> str:
    """The first line of the innermost error that says something, with the key that it is about."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    spoken = [e for e in chain if str(e).strip()]
    deepest = spoken[-1] if spoken else error
    full_key = next((key for e in reversed(chain) if (key := getattr(e, "full_key", None))), None)
    line = first_line(deepest)
    choice = re.search(r"Invalid value '(.+)', expected one of \[(.+)\]", line)
    if choice:
        line = f"no such value '{choice[1]}'; {nearest(choice[1], choice[2].split(', '))}"
    return f"{full_key}: {line}" if full_key else line


def _chosen(overrides: Sequence[str]) -> str:
    values = [text.partition("=")[2] for text in overrides if text.startswith("method=")]
    return values[-1] if values else "baseline"


def group_options() -> dict[str, list[str]]:
    """Every configuration group with its options; to be called while Hydra is initialised."""
    loader = GlobalHydra.instance().config_loader()
    groups = ("data", "detector", "engine", "schedule", "evaluation", "launcher", "backbone", "method")
    return {group: loader.get_group_options(group) for group in groups}


def _known_keys(overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    chosen = [text for text in overrides if (pair := text.partition("="))[0] in groups and pair[2] in groups[pair[0]]]
    tree = hydra.compose("run", chosen)
    return list(_flat(OmegaConf.to_container(tree)))  # type: ignore[arg-type]
