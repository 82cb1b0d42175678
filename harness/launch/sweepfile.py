"""Sweep files: finding, reading and checking them. Every error names the file and the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import UserError, nearest
from harness.record.reading import Damaged, is_name, read_yaml

KEYS = ("description", "defaults", "grid", "rules", "after", "report")
LONGEST = 150  # characters of a sweep's name; its jobs' names are longer
Selector = dict[str, tuple[str, ...]]  # key -> the values that match


@dataclass(frozen=True)
class Rule:
    """settings that apply to the runs that `when` selects."""

    when: Selector
    settings: dict[str, str]


@dataclass(frozen=True)
class After:
    """The runs that `when` selects start from the weights of one run and read the records of others.

    files: options of the method that name a file, with the offline stage that leaves it.
    """

    when: Selector
    init_from: Selector | None
    needs: tuple[Selector, ...]
    files: dict[str, Selector] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A sweep file. Values are texts in Hydra's override grammar."""

    name: str
    path: Path
    description: str
    defaults: tuple[str, ...]
    grids: tuple[dict[str, tuple[str, ...]], ...]
    rules: tuple[Rule, ...] = ()
    after: tuple[After, ...] = ()
    report: str | None = None
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # every grid key with the values of all grids


def find(name: str) -> Path:
    """The file of a sweep: a path, ./sweeps/NAME.yaml, or one that is shipped. Raises UserError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such sweep file")
        return path
    known = {
        path.stem: path for folder in (_shipped_folder(), Path("sweeps")) for path in sorted(folder.glob("*.yaml"))
    }
    if name not in known:
        raise UserError(f"no sweep is called '{name}'; {nearest(name, list(known))}")
    return known[name]


def read(path: Path) -> Sweep:
    """A checked sweep file. Raises UserError."""
    if not is_name(path.stem) or len(path.stem) > LONGEST:
        raise UserError(f"{path}: a sweep has its file's name, at most {LONGEST} letters, digits and '_-.+'; rename it")
    try:
        content = read_yaml(path)
    except Damaged as error:
        raise UserError(str(error)) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a sweep file with the keys {', '.join(KEYS)}")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: no such key {key!r}; {nearest(str(key), KEYS)}")
    if "grid" not in content:
        raise UserError(f"{path}: the key 'grid' is missing: what to vary, such as grid: {{method: [baseline, bsgal]}}")
    grids = tuple(_grid(path, grid) for grid in _listed(content["grid"]))
    return Sweep(
        name=path.stem,
        path=path,
        description=str(content.get("description", "")),
        defaults=tuple(_override(path, text) for text in _listed(content.get("defaults"))),
        grids=grids,
        rules=tuple(_rule(path, rule) for rule in _listed(content.get("rules"))),
        after=tuple(_after(path, entry) for entry in _listed(content.get("after"))),
        report=content.get("report"),
        axes=_axes(grids),
    )


def text_of(value: Any) -> str:
    """A YAML value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(text_of(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{text_of(item)}' for key, item in value.items())}}}"
    return str(value)


def _shipped_folder() -> Path:
    return Path(str(files("sweeps")))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _mapping(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        raise UserError(f"{path}: {where}: expected keys with values, such as {{method: bsgal}}, found {value!r}")
    return value


def _only(path: Path, where: str, value: dict[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    for key in value:
        if key not in (*required, *optional):
            raise UserError(f"{path}: {where}: no such key {key!r}; {nearest(key, [*required, *optional])}")
    for key in required:
        if key not in value:
            raise UserError(f"{path}: {where}: the key '{key}' is missing")


def _override(path: Path, value: Any) -> str:
    if not isinstance(value, str) or "=" not in value:
        raise UserError(f"{path}: defaults: {value!r} is not an override; write key=value, such as data=mini")
    return value


def _grid(path: Path, value: Any) -> dict[str, tuple[str, ...]]:
    grid = {}
    for key, values in _mapping(path, "grid", value).items():
        grid[key] = tuple(text_of(item) for item in _listed(values))
        if not grid[key]:
            raise UserError(f"{path}: grid: {key!r} has no values")
    return grid


def _axes(grids: Sequence[dict[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    axes: dict[str, tuple[str, ...]] = {}
    for grid in grids:
        for key, values in grid.items():
            axes[key] = tuple(dict.fromkeys((*axes.get(key, ()), *values)))
    return axes


def _selector(path: Path, where: str, value: Any) -> Selector:
    mapping = _mapping(path, where, value)
    return {key: tuple(text_of(item) for item in _listed(values)) for key, values in mapping.items()}


def _rule(path: Path, value: Any) -> Rule:
    rule = _mapping(path, "rules", value)
    _only(path, "rules", rule, ("when", "set"))
    settings = _mapping(path, "rules: set", rule["set"])
    return Rule(
        _selector(path, "rules: when", rule["when"]), {key: text_of(setting) for key, setting in settings.items()}
    )


def _after(path: Path, value: Any) -> After:
    entry = _mapping(path, "after", value)
    _only(path, "after", entry, ("when",), ("init_from", "needs", "files"))
    if len(entry) == 1:
        raise UserError(f"{path}: after: say what the runs wait for, with init_from, needs or files")
    files = _mapping(path, "after: files", entry["files"]) if "files" in entry else {}
    for option in files:
        if not option.startswith("method."):
            raise UserError(f"{path}: after: files: {option} is not an option of a method, such as method.scores")
    return After(
        when=_selector(path, "after: when", entry["when"]),
        init_from=_selector(path, "after: init_from", entry["init_from"]) if "init_from" in entry else None,
        needs=tuple(_selector(path, "after: needs", need) for need in _listed(entry.get("needs"))),
        files={option: _selector(path, f"after: files: {option}", stage) for option, stage in files.items()},
    )
