"""What a sweep expects: its runs, what was submitted for them, and the file that says so."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from typing_extensions import TypedDict

from harness.record.files import write_json
from harness.record.reading import Damaged, Label, Name, is_name, of_types, read_json

SCHEMA = 1
log = logging.getLogger(__name__)


class _Resources(TypedDict, total=False):
    """Launcher settings, as `harness.config.LauncherConfig` has them, and the number of ranks."""

    name: Label
    parallel: int
    jobs: int | None
    retries: int
    gpus: int
    nodes: int
    cpus: int
    memory_gb: float
    minutes: int
    partition: Label | None
    account: Label | None
    qos: Label | None
    constraint: Label | None
    exclude: str | None
    comment: str | None
    rank_patience_minutes: float
    signal_seconds: int
    setup: list[str]
    sbatch: dict[str, Any]
    ranks: int


@dataclass
class ExpectedRun:
    """A run that a sweep consists of. overrides compose it; axes are the grid's keys and values, as strings.

    choices: the option of every configuration group, given by the overrides or not. retried: how often it was tried
    again by itself, with other resources. stage: the offline stage that the run is, empty for one that is none.
    """

    run_id: Name
    name: Label
    overrides: list[str]
    axes: dict[str, str]
    parents: list[Name] = field(default_factory=list)  # run_ids that must be complete before it starts
    resources: Annotated[dict[str, Any], AfterValidator(of_types(_Resources))] = field(default_factory=dict)
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

    job_name: Name
    folder: str
    launcher: Label
    run_ids: list[Name]
    job_ids: list[Name] = field(default_factory=list)  # empty until the scheduler has answered
    created: float = 0.0
    user: Label = ""
    host: Label = ""
    pack: int = 1


@dataclass
class Manifest:
    sweep: Name
    description: str
    report: Label | None
    runs: list[ExpectedRun]
    submissions: list[Submission] = field(default_factory=list)
    schema: int = SCHEMA


def manifest_path(runs: Path, sweep: str) -> Path:
    return runs / "sweeps" / sweep / "manifest.json"


def write_manifest(runs: Path, manifest: Manifest) -> None:
    write_json(manifest_path(runs, manifest.sweep), asdict(manifest))


def read_manifest(runs: Path, sweep: str) -> Manifest | None:
    """The manifest of a sweep; None without one. Raises Damaged naming a file that is no manifest of it."""
    path = manifest_path(runs, sweep)
    remedy = f"delete it, and `harness sweep {sweep}` writes it again"
    manifest: Manifest | None = read_json(path, Manifest, "a manifest", remedy, SCHEMA) if is_name(sweep) else None
    if manifest is not None and manifest.sweep != sweep:
        raise Damaged(f"{path} is not a manifest of this sweep (it says {manifest.sweep}); {remedy}")
    return manifest


def read_manifests(runs: Path, sweeps: Iterable[str] | None = None) -> list[Manifest]:
    """The manifests of these sweeps, or of all; one that is damaged is left out with a warning."""
    found = []
    for name in sweep_names(runs) if sweeps is None else sweeps:
        try:
            manifest = read_manifest(runs, name)
        except (Damaged, OSError) as damage:
            log.warning("%s", damage)
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def sweep_names(runs: Path) -> list[str]:
    """Sweeps that have a manifest below `runs`."""
    names = (path.parent.name for path in runs.glob("sweeps/*/manifest.json"))
    return sorted(name for name in names if is_name(name))
