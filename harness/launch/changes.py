"""Other launcher settings for the runs of a manifest: given on the command line, or chosen by why a run failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from harness.bounds import number_fault, text_fault
from harness.errors import UserError, nearest
from harness.launch.state import RunState, State
from harness.record.manifest import ExpectedRun
from harness.record.record import FailureKind

# Failures that come again on the same node.
_OF_THE_NODE = (FailureKind.node_failure.value, FailureKind.never_started.value)


def read_changes(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The settings among a command's words (`launcher.minutes=60`, `launcher.sbatch.hold=true`), and the others."""
    changes = {}
    others = []
    for word in words:
        key, equals, value = word.removeprefix("+").partition("=")
        if key.startswith("launcher.") and equals:
            changes[key.removeprefix("launcher.")] = value
        else:
            others.append(word)
    return changes, others


def setup_lines(changes: Mapping[str, str]) -> list[str]:
    """The shell lines of a launcher.setup among the changes. Raises UserError for anything but a list of lines."""
    lines = _value("setup", changes.get("setup", "[]"))
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"launcher.setup={changes['setup']}: expected a list of shell lines, such as ['module load x']")
    return lines


def apply_changes(run: ExpectedRun, changes: Mapping[str, str]) -> None:
    """Puts launcher settings into a run. Raises UserError for one that does not exist or has another type."""
    for name, text in changes.items():
        flag = name.removeprefix("sbatch.")
        if flag != name:
            run.resources["sbatch"] = {**run.resources.get("sbatch", {}), flag: text}
            _override(run, f"launcher.sbatch.{flag}", text, plus="+")
            continue
        if name not in run.resources or name in ("name", "ranks", "sbatch"):
            raise UserError(f"launcher.{name}={text}: no such launcher setting; {nearest(name, list(run.resources))}")
        value, old = _value(name, text), run.resources[name]
        if isinstance(old, int | float) and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise UserError(f"launcher.{name}={text}: a number is expected")
        if fault := number_fault(f"launcher.{name}", value) or text_fault(value):
            raise UserError(f"launcher.{name}={text}: {fault}")
        run.resources[name] = value
        _override(run, f"launcher.{name}", text)


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"launcher.{name}={text}: cannot be read; quote values with brackets or colons") from error


def avoid_bad_node(run: ExpectedRun, row: RunState) -> None:
    """Excludes the node on which a run failed."""
    if row.failure_kind in _OF_THE_NODE and row.node.strip() not in ("", "None assigned"):
        earlier = run.resources["exclude"]
        nodes = ",".join(dict.fromkeys([*([earlier] if earlier else []), row.node]))
        run.resources["exclude"] = nodes
        _override(run, "launcher.exclude", f"'{nodes}'")


def cure(row: RunState) -> dict[str, str] | None:
    """The settings with which a retried run may succeed; None if they are not to blame.

    Twice the memory or twice the time; unchanged if it was stopped from outside, or its node failed.
    """
    resources = row.run.resources
    if row.state is State.interrupted or row.failure_kind == FailureKind.node_failure.value:
        return {}
    if row.failure_kind == FailureKind.out_of_memory.value:
        return {"memory_gb": str(2 * resources["memory_gb"])}
    if row.failure_kind == FailureKind.timeout.value:
        return {"minutes": str(2 * resources["minutes"])}
    return None


def _override(run: ExpectedRun, key: str, text: str, plus: str = "") -> None:
    run.overrides = [o for o in run.overrides if o.partition("=")[0].removeprefix("+") != key] + [f"{plus}{key}={text}"]
