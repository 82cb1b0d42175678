"""What the checks find: faults, each one sentence, and the report of all."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One check: its name, what is wrong (empty when nothing is), and what it measured."""

    name: str
    fault: str = ""
    note: str = ""


@dataclass
class Report:
    """All checks of a method. `cost` counts passes of one step: forward, backward (the training one included)."""

    method: str
    results: list[Result] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def faults(self) -> list[Result]:
        return [result for result in self.results if result.fault]


class Fault(AssertionError):
    """What a method does wrong, in one sentence."""


def require(holds: object, otherwise: str) -> None:
    """Raises Fault with a sentence; asserts would vanish under `python -O`."""
    if not holds:
        raise Fault(otherwise)


def sentence(error: Exception) -> str:
    """What an error that a method raised says, and where its own code raised it."""
    if isinstance(error, Fault):
        return str(error)
    kit = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != kit]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the check itself"
    return f"{type(error).__name__}: {error} (at {where})"
