"""The methods as a table: what `harness methods` prints."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from enum import Enum
from typing import Any

from methods import registry
from methods.contract import Method


@dataclass(frozen=True)
class MethodOption:
    """One field of a method; `choices` are an enum's member names, empty for other types."""

    name: str
    default: str
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}={self.default}" + (f" ({'|'.join(self.choices)})" if self.choices else "")


@dataclass(frozen=True)
class MethodRow:
    """One method. about: its docstring, whose first line is the summary. needs: what its default options need from
    an engine. origin: built in, or the file or package."""

    name: str
    about: str
    options: tuple[MethodOption, ...]
    needs: tuple[str, ...]
    paper: str
    origin: str

    @property
    def summary(self) -> str:
        return self.about.split("\n")[0]

    @property
    def own_options(self) -> tuple[MethodOption, ...]:
        """The options that the method's class adds to or changes from those it inherits."""
        cls = registry.find(self.name)
        inherited = {option.name: option for base in cls.__mro__[1:] for option in _options(base)}
        return tuple(option for option in self.options if inherited.get(option.name) != option)


def methods_table() -> list[MethodRow]:
    """A row for every registered method, by name."""
    return [method_row(name) for name in registry.names()]


def method_row(name: str) -> MethodRow:
    cls = registry.find(name)
    return MethodRow(
        name=name,
        about=inspect.cleandoc(cls.__doc__ or ""),
        options=_options(cls),
        needs=tuple(sorted(need.value for need in cls().required())),
        paper=cls.paper,
        origin="built in" if registry.is_built_in(cls) else registry.source_file(cls),
    )


def _options(cls: type) -> tuple[MethodOption, ...]:
    if not (issubclass(cls, Method) and dataclasses.is_dataclass(cls)):
        return ()
    return tuple(
        MethodOption(name, _shown(default), tuple(type(default).__members__) if isinstance(default, Enum) else ())
        for name, default in registry.options(cls).items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
