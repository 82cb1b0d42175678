"""What a sweep expects: its runs, what was submitted for them, and the file that says so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from harness.record.files import write_json

SCHEMA = 1
T = TypeVar("T")


@dataclass
class ExpectedRun:
    """A run that a sweep consists of. overrides compose it; axes are the grid's keys and values, as strings.

    choices: the option of every configuration group, given by the overrides or not. retried: how often it was tried
    again by itself, with other resources. stage: the offline stage that the run is, empty for one that is none.
    """

    run_id: str
    name: str
    overrides: list[str]
    axes: dict[str, str]
    parents: list[str] = field(default_factory=list)  # run_ids that must be complete before it starts
    resources: dict[str, Any] = field(default_factory=dict)
    iterations: int = 0
    choices: dict[str, str | None] = field(default_factory=dict)
    retried: int = 0
    stage: str = ""


@dataclass
class Submission:
    """One array (or single job) handed to a scheduler. job_name is unique; job_ids follow `run_ids`' order.

    pack: how many of its runs, in their order, share a job. user: who handed it over. host: the machine of a local
    launcher, whose job ids are numbers of processes there.
    """

    job_name: str
    folder: str
    launcher: str
    run_ids: list[str]
    job_ids: list[str] = field(default_factory=list)  # empty until the scheduler has answered
    created: float = 0.0
    user: str = ""
    host: str = ""
    pack: int = 1


@dataclass
class Manifest:
    sweep: str
    description: str
    report: str | None
    runs: list[ExpectedRun]
    submissions: list[Submission] = field(default_factory=list)
    schema: int = SCHEMA


def manifest_path(runs: Path, sweep: str) -> Path:
    return runs / "sweeps" / sweep / "manifest.json"


def write_manifest(runs: Path, manifest: Manifest) -> None:
    write_json(manifest_path(runs, manifest.sweep), asdict(manifest))


def read_manifest(runs: Path, sweep: str) -> Manifest | None:
    path = manifest_path(runs, sweep)
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    expected = [_known(ExpectedRun, run) for run in content["runs"]]
    submissions = [_known(Submission, submission) for submission in content["submissions"]]
    return _known(Manifest, {**content, "runs": expected, "submissions": submissions})


def _known(kind: type[T], content: dict[str, Any]) -> T:
    """An object of the fields that this version knows."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in content.items() if key in names})


def sweep_names(runs: Path) -> list[str]:
    """Sweeps that have a manifest below `runs`."""
    return sorted(path.parent.name for path in runs.glob("sweeps/*/manifest.json"))
