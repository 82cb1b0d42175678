"""The table of published settings: each with its file and line, and what a composed recipe has in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError, nearest

FOLDER = Path(str(files("harness.recipes")))
SECTIONS = (
    "training",
    "data",
    "pasting",
    "offline_filter",
    "copy_paste",
    "method",
    "backbone",
    "proposals",
    "cascade",
    "evaluation",
    "behaviour",
)


class Verdict(Enum):
    """departs: the recipe has another value than the table says, which is a mistake in one of them."""

    equal = "equal"
    differs = "differs"
    aside = "no part of it"
    departs = "DEPARTS"


@dataclass(frozen=True)
class Paper:
    """Where a recipe comes from. gpus, hours: published. figures: AP box and mask, rare AP box and mask, percent."""

    name: str
    paper: str
    origin: str
    gpus: str | None = None
    hours: str | None = None
    figures: tuple[float, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """A published value and what we have in its place: a key of ours, a constant, or words with what holds them.

    keys: of the composed configuration. constant: module:NAME. expected: ours where all is as the table says.
    where: a file and a text in it that keeps the stated equality true. aside: why it is no part of the comparison.
    differs: why ours is another. origins: file and line of each recipe that has this value.
    """

    section: str
    name: str
    published: Any
    expected: Any
    keys: tuple[str, ...]
    constant: str | None
    where: str | None
    aside: str | None
    differs: str | None
    note: str
    origins: Mapping[str, str]

    def ours(self, settings: Mapping[str, Any]) -> Any:
        """What a composed recipe has; the stated words where no key or constant says it."""
        if self.constant:
            return _constant(self.constant)
        if len(self.keys) == 1:
            return settings[self.keys[0]]
        return [settings[key] for key in self.keys] if self.keys else self.expected

    def verdict(self, settings: Mapping[str, Any]) -> Verdict:
        if self.aside:
            return Verdict.aside
        if self.differs:
            return Verdict.differs
        return Verdict.equal if self.ours(settings) == self.expected else Verdict.departs

    @property
    def remark(self) -> str:
        return self.differs or self.aside or self.note


@cache
def papers() -> dict[str, Paper]:
    """The published recipes by name."""
    content = _papers_file()["recipes"]
    return {name: _paper(name, entry) for name, entry in content.items()}


@cache
def sources() -> dict[str, dict[str, str]]:
    """Repository and commit by the short name that origins begin with."""
    found: dict[str, dict[str, str]] = _papers_file()["sources"]
    return found


@cache
def settings() -> tuple[Setting, ...]:
    """Every published setting, section by section."""
    return tuple(setting for section in SECTIONS for setting in _section(section))


def settings_of(recipe: str) -> list[Setting]:
    """The published settings of one recipe. Raises UserError for a name that is not in the table."""
    if recipe not in papers():
        raise UserError(f"{recipe}: no published recipe; {nearest(recipe, list(papers()))}")
    return [setting for setting in settings() if recipe in setting.origins]


def _papers_file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "papers.yaml").read_text())
    return content


def _paper(name: str, entry: Mapping[str, Any]) -> Paper:
    figures = entry.get("figures")
    words = {key: value for key, value in entry.items() if key != "figures"}
    return Paper(name, **words, figures=tuple(figures) if figures else None)


def _section(section: str) -> Iterator[Setting]:
    for row in yaml.safe_load((FOLDER / "published" / f"{section}.yaml").read_text()):
        for value in row["values"]:
            yield _setting(section, row["name"], {**row, **value})


def _setting(section: str, name: str, entry: Mapping[str, Any]) -> Setting:
    keys = entry.get("key", ())
    return Setting(
        section=section,
        name=name,
        published=entry["published"],
        expected=entry.get("ours", entry["published"]),
        keys=(keys,) if isinstance(keys, str) else tuple(keys),
        constant=entry.get("constant"),
        where=entry.get("where"),
        aside=entry.get("aside"),
        differs=entry.get("differs"),
        note=entry.get("note", ""),
        origins={recipe: origin for origin, recipes in entry["at"].items() for recipe in recipes},
    )


def _constant(path: str) -> Any:
    """The value of module:NAME, or of one place in it, module:NAME.0; sequences as lists."""
    module, _, name = path.partition(":")
    name, _, place = name.partition(".")
    value = getattr(import_module(module), name)
    value = value[int(place)] if place else value
    return list(value) if isinstance(value, Sequence) else value
