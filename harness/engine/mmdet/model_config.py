"""mmdet's configurations: found by name or path, overridden, and made into a detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mmdet
import yaml
from mmengine.config import Config, ConfigDict

from harness.errors import UserError, first_line, nearest

SHIPPED = Path(mmdet.__file__).parent / ".mim" / "configs"


def read_config(name: str, overrides: Sequence[str]) -> Config:
    """A configuration by path, or by name (with or without its folder and `.py`) of those that mmdet ships.

    Overrides are `key=value`, keys dotted (numbers count in lists), values in YAML. Raises UserError.
    """
    config = Config.fromfile(_find(name))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"engine.overrides: '{override}' is not key=value")
        _check_key(config, key, override)
        try:
            config.merge_from_dict({key: yaml.safe_load(value)})
        except (TypeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"engine.overrides: '{override}': {first_line(error)}") from error
    return config


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    stem = name.removesuffix(".py")
    shipped = {str(path.relative_to(SHIPPED).with_suffix("")): path for path in SHIPPED.rglob("*.py")}
    fitting = [path for known, path in shipped.items() if known == stem or known.endswith(f"/{stem}")]
    if not fitting:
        raise UserError(
            f"engine.config={name}: no such file or configuration of mmdet; {nearest(stem, _names(shipped))}"
        )
    return fitting[0]


def _names(shipped: dict[str, Path]) -> list[str]:
    return [path.stem for path in shipped.values()]


def _check_key(config: Config, key: str, override: str) -> None:
    """The parent of a key has to exist; its last word may be new, since options have defaults."""
    place: Any = config
    *folders, _ = key.split(".")
    for word in folders:
        if isinstance(place, list) and word.isdigit() and int(word) < len(place):
            place = place[int(word)]
        elif hasattr(place, "keys") and word in place:
            place = place[word]
        else:
            known = list(place.keys()) if hasattr(place, "keys") else []
            raise UserError(f"engine.overrides: '{override}': there is no '{word}'; {nearest(word, known)}")


def set_num_classes(roi_head: ConfigDict, num_classes: int) -> None:
    """Sets the number of classes in every box and mask head, and in every loss that takes it."""
    for _, part in parts(roi_head):
        if "num_classes" in part:
            part["num_classes"] = num_classes


def parts(tree: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dictionary in a tree of dictionaries and lists, with its dotted name, "" for the tree itself."""
    if isinstance(tree, dict):
        yield name, tree
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in entries:
        yield from parts(value, f"{name}.{key}" if name else str(key))
