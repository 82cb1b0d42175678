"""Whose code a run executes. What a manifest names, anyone may have written who can write into the folder of runs: it
is handed to a job only where whoever types the command named it too, or the sweep file that is launched does."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.launch.expand import given
from harness.record.manifest import ExpectedRun
from harness.run.named_code import is_code


@dataclass(frozen=True)
class Code:
    """files: methods', stages' rules, and engines' configurations in Python. lines: of the shell, before the run."""

    files: frozenset[Path]
    lines: frozenset[str]

    @classmethod
    def of_runs(cls, runs: Iterable[ExpectedRun]) -> Code:
        """The code that runs name. Raises UserError for overrides that cannot be read."""
        files: set[Path] = set()
        lines: set[str] = set()
        for run in runs:
            files |= _files(run.overrides)
            lines |= {str(line) for line in run.resources.get("setup", [])}
        return cls(frozenset(files), frozenset(lines))

    @classmethod
    def typed(cls, files: Iterable[Path], lines: Iterable[str]) -> Code:
        return cls(frozenset(path.resolve() for path in files), frozenset(lines))


def refuse_others_code(sweep: str, runs: Sequence[ExpectedRun], trusted: Code) -> None:
    """Raises UserError, with a remedy, for runs that name code that is not trusted."""
    again = f"`harness sweep {sweep}` starts the runs from their file"
    for run in runs:
        code = Code.of_runs([run])
        for path in sorted(code.files - trusted.files):
            raise UserError(
                f"{run.run_id} executes {path}, which the manifest names and anyone could have written there: "
                f"read it, then add --trust {shlex.quote(str(path))}, or {again}"
            )
        if strange := sorted(code.lines - trusted.lines):
            raise UserError(
                f"{run.run_id} has the shell line {strange[0]!r} in its launcher.setup, and anyone could have written "
                f"it there: add launcher.setup=[...] with the lines you want, or {again}"
            )


def _files(overrides: Iterable[str]) -> set[Path]:
    plain = [text.lstrip("+") for text in overrides]
    if odd := next((text for text in plain if text.startswith(("hydra", "~"))), None):
        raise UserError(f"a run in the manifest has the override {odd!r}, which no sweep writes")
    methods = given(plain, "method_paths")
    further = [given(plain, key) for key in ("engine.config", "stage.by")]
    named = [*(methods if isinstance(methods, list) else []), *(text for text in further if is_code(text))]
    return {Path(str(path)).expanduser().resolve() for path in named}
