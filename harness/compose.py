"""Composing a run's configuration from overrides, with errors that name the nearest valid word."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import backbones
import methods
from harness.bounds import first_fault, text_fault
from harness.config import MaskTargets, RunConfig, profile_steps
from harness.errors import UserError, first_line, nearest, quoting, shown
from harness.record.learning_curve import FIGURES

# By overrides of groups: the tree that they make, and every group's option.
_trees: dict[tuple[str, ...], tuple[DictConfig, Mapping[str, str | None]]] = {}


@dataclass(frozen=True)
class Composed:
    """A validated configuration.

    choices: every configuration group with the option that was chosen, given or not. overrides: what was given.
    """

    config: RunConfig
    choices: dict[str, str | None]
    overrides: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration flattened to dotted keys, with `method` and `backbone` as names; plain values only."""
        flat = _flat(plain(self.config))
        flat["method"] = methods.name_of(type(self.config.method))
        flat["backbone"] = backbones.name_of(type(self.config.backbone))
        return flat


def compose(overrides: Sequence[str]) -> Composed:
    """Composes and validates a run's configuration. Raises UserError with one line."""
    register_groups(overrides)
    try:
        with initialised():
            return validated(*_composed_tree(overrides), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, overrides) from error


def group_choices(overrides: Sequence[str]) -> dict[str, str | None]:
    """The option that every configuration group comes to, whatever else is missing yet. Raises UserError."""
    register_groups(overrides)
    try:
        with initialised():
            return _without_hydra_s(_composed_tree(overrides)[1])
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, overrides) from error


def validated(tree: DictConfig, choices: Mapping[str, str | None], overrides: Sequence[str]) -> Composed:
    """The typed configuration of a composed tree, checked for options that contradict one another.

    `choices`: as Hydra has them, its own groups among them.
    """
    config = OmegaConf.to_object(tree)
    assert isinstance(config, RunConfig)
    check(config)
    return Composed(config, _without_hydra_s(choices), tuple(overrides))


def _without_hydra_s(choices: Mapping[str, str | None]) -> dict[str, str | None]:
    return {group: option for group, option in choices.items() if not group.startswith("hydra/")}


def initialised() -> AbstractContextManager[None]:
    return hydra.initialize_config_module("harness.conf", version_base="1.3")


def _composed_tree(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str | None]]:
    """A run's tree, and every group's option; to be called while Hydra is initialised."""
    check_groups(overrides)
    return _from_kept_groups(overrides) or _composed_by_hydra(overrides)


def _from_kept_groups(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str | None]] | None:
    """The same, sooner: most configurations of a process differ in values alone, and putting groups together takes
    nearly all of Hydra's time. None for what is left to Hydra to do, or to explain."""
    read = [(text, override) for text in overrides if (override := _override(text))]
    chosen = tuple(text for text, override in read if override.key_or_group in _groups())
    values = [override for _, override in read if override.key_or_group not in _groups()]
    if len(read) < len(overrides) or not all(_sets_a_value(override) for override in values):
        return None
    if chosen not in _trees:
        _trees[chosen] = _composed_by_hydra(chosen)
    tree, choices = copy.deepcopy(_trees[chosen])
    try:
        for override in values:
            OmegaConf.update(tree, override.key_or_group, override.value())
    except OmegaConfBaseException:
        return None
    return tree, choices


def _sets_a_value(override: Override) -> bool:
    plainly = override.type is OverrideType.CHANGE and not override.is_sweep_override() and override.package is None
    return plainly and not override.is_hydra_override()


def _composed_by_hydra(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str | None]]:
    tree = hydra.compose("run", list(overrides), return_hydra_config=True)
    with open_dict(tree):
        return tree, tree.pop("hydra").runtime.choices


def check_groups(overrides: Sequence[str]) -> None:
    """To be called while Hydra is initialised. Raises UserError for a group that is given something else than a word,
    at which Hydra fails in words of its own."""
    for text in overrides:
        read = _override(text)
        if read is None or read.is_delete() or read.is_sweep_override() or read.key_or_group not in _groups():
            continue
        if not isinstance(read.value(), str):
            raise UserError(f"{shown(text)}: expected one word, such as {read.key_or_group}=NAME")


@cache
def _groups() -> frozenset[str]:
    """Once: Hydra looks for them in folders, which takes a tenth of the time of composing."""
    return frozenset(GlobalHydra.instance().config_loader().list_groups(""))


def register_groups(overrides: Sequence[str] = ()) -> None:
    """Puts methods and backbones, those of `method_paths=[...]` too, into Hydra's store of configuration groups."""
    for override in overrides:
        for path in _method_paths(override):
            _load_plugin(Path(path))
    _store("run_schema", RunConfig)
    for name in methods.names():
        _store(name, methods.find(name), "method")
    for name in backbones.names():
        _store(name, backbones.find(name), "backbone")


def _store(name: str, schema: type, group: str | None = None) -> None:
    """Once: making the nodes of all schemas takes a third of the time of composing."""
    store = ConfigStore.instance()
    known = store.repo.get(group, {}) if group else store.repo
    node = known.get(f"{name}.yaml")
    if node is None or OmegaConf.get_type(node.node) is not schema:
        store.store(name, schema, group=group)
        _trees.clear()


def _method_paths(override: str) -> list[str]:
    """The files of an override `method_paths=[...]`; none of another one, or of one that composing will refuse."""
    if not override.lstrip("+").startswith("method_paths="):
        return []
    read = _override(override)
    value = read.value() if read else None
    return [str(path) for path in value] if isinstance(value, list) else []


def _load_plugin(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"method_paths: {path} does not exist; paths are relative to the folder you are in")
    try:
        methods.load_file(path)
    except ValueError as error:
        raise UserError(str(error)) from error


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


def check(config: RunConfig) -> None:
    """Raises UserError for numbers that nobody means, and for options that contradict one another."""
    schedule, detector, launcher = config.schedule, config.detector, config.launcher
    ours = {key: value for key, value in _flat(plain(config)).items() if not key.startswith(("method.", "backbone."))}
    if fault := first_fault(ours):
        raise UserError(fault)
    for key, value in (("name", config.name), *((f"launcher.{key}", text) for key, text in plain(launcher).items())):
        if fault := text_fault(value):
            raise UserError(f"{key}={value!r}: {fault}")
    if detector.channels % detector.head_groups and detector.head_convs:
        raise UserError(
            f"detector.channels={detector.channels} is not a multiple of detector.head_groups={detector.head_groups}"
        )
    if config.data.scale_min > config.data.scale_max:
        raise UserError(f"data.scale_min={config.data.scale_min} is above data.scale_max={config.data.scale_max}")
    parts = schedule.batch_per_rank * schedule.accumulate
    if schedule.global_batch % parts:
        times = f" times schedule.accumulate={schedule.accumulate}" if schedule.accumulate != 1 else ""
        raise UserError(
            f"schedule.global_batch={schedule.global_batch} is not a multiple of "
            f"schedule.batch_per_rank={schedule.batch_per_rank}{times}: their quotient is the number of ranks"
        )
    for option, wanted in (("accumulate", schedule.accumulate > 1), ("compile", schedule.compile)):
        if wanted and config.engine.name != "native":
            raise UserError(f"schedule.{option} needs engine=native, not {config.engine.name}")
    if schedule.accumulate > 1 and config.method.decides():
        raise UserError(
            f"schedule.accumulate={schedule.accumulate} is only for methods that decide nothing: what "
            f"{methods.name_of(type(config.method))} compares is about a whole step, not about parts of it; "
            "use more ranks, or a smaller schedule.global_batch"
        )
    if schedule.profile is not None:
        try:
            profile_steps(schedule.profile)
        except ValueError as error:
            raise UserError(f"schedule.profile: {error}") from error
    if config.weights and config.init_from:
        raise UserError("weights and init_from both say where to start; give only one")
    if not config.train and not (config.weights or config.init_from):
        raise UserError("train=false evaluates existing weights: give weights=FILE (or init_from=RUN_ID)")
    if config.data.mask_targets is MaskTargets.polygon and (config.method.pastes or config.engine.name != "native"):
        raise UserError("data.mask_targets=polygon needs engine=native and a method that pastes nothing; use bitmask")
    if config.evaluation.best is not None and config.evaluation.best not in FIGURES:
        raise UserError(
            f"evaluation.best={config.evaluation.best} is not a metric; choose from {', '.join(FIGURES)}, or null"
        )
    if config.evaluation.mixed and config.engine.name != "native":
        raise UserError("evaluation.mixed needs engine=native; other engines predict as their own configuration says")
    try:
        config.method.validate()
    except ValueError as error:
        raise UserError(f"method={methods.name_of(type(config.method))}: {error}") from error


def explained(error: Exception, overrides: Sequence[str]) -> UserError:
    """One line: the first override that names a group option or a key that does not exist, else Hydra's first line."""
    with initialised():
        return UserError(_explanation(error, overrides))


def _explanation(error: Exception, overrides: Sequence[str]) -> str:
    groups = _groups() - {"hydra"}
    read = {text: _override(text) for text in overrides}
    for text, override in read.items():
        if override is None:
            quoted = f"'{text}'" if text.isprintable() else shown(text)
            return f"cannot read the override {quoted}: {quoting(text)}"
        key, value = override.key_or_group, override.value()
        if key in groups and isinstance(value, str) and value not in (options := _options(key)):
            return f"{key}={value}: no such {key}; {nearest(value, options)}"
    chosen = [text for text, override in read.items() if override is not None and override.key_or_group in groups]
    try:
        tree, choices = _composed_tree(chosen)
    except (HydraException, OmegaConfBaseException) as clash:
        return f"{' '.join(chosen)}: {_innermost(clash)}"
    known = list(_flat(OmegaConf.to_container(tree)))  # type: ignore[arg-type]
    for text, override in read.items():
        assert override is not None
        key = override.key_or_group
        if key in groups or override.is_add() or any(key == name or name.startswith(f"{key}.") for name in known):
            continue
        kind = f" for method={choices['method']}" if key.startswith("method.") else ""
        return f"{text}: no such key '{key}'{kind}; {nearest(key, [*known, *groups])}"
    return _innermost(error)


def _override(text: str) -> Override | None:
    """An override as Hydra reads it; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _innermost(error: BaseException) -> str:
    """The first line of the innermost error that says something, with the key that it is about."""
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        chain.append(cause)
    spoken = [e for e in chain if str(e).strip()]
    deepest = spoken[-1] if spoken else error
    full_key = next((key for e in reversed(chain) if (key := getattr(e, "full_key", None))), None)
    line = first_line(deepest)
    choice = re.search(r"Invalid value '(.+)', expected one of \[(.+)\]", str(deepest))
    if choice:
        line = f"no such value '{choice[1]}'; {nearest(choice[1], choice[2].split(', '))}"
    return f"{full_key}: {line}" if full_key else line


def _options(group: str) -> list[str]:
    """Of one group: to list them, Hydra copies all that is stored."""
    return GlobalHydra.instance().config_loader().get_group_options(group)
