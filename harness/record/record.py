"""The record of a run: its schema, its name, writing one and reading many."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator
from typing_extensions import TypedDict

from harness.record.files import write_json
from harness.record.reading import Damaged, Label, Name, Time, is_name, of_types, read_json
from harness.record.waiting import read_each

SCHEMA = 1


class Status(str, Enum):
    """running: claimed, not ended. waiting: its parent has no complete record. interrupted: stopped, to be resumed."""

    running = "running"
    complete = "complete"
    failed = "failed"
    waiting = "waiting"
    interrupted = "interrupted"


class FailureKind(str, Enum):
    python_error = "python error"
    out_of_memory = "out of memory"
    timeout = "time-out"
    node_failure = "node failure"
    cancelled = "cancelled"
    never_started = "never started"
    no_space = "no space left"
    no_record = "no record"
    damaged_record = "damaged record"


class _Settings(TypedDict, total=False):
    """Those that others read."""

    method: Label
    backbone: Label
    seed: int
    method_paths: list[str] | None


class _Provenance(TypedDict, total=False):
    code: str
    fingerprints: dict[str, str]
    hardware: dict[str, Any]
    packages: dict[str, Any]
    parents: list[str]
    job: str | None


@dataclass
class Record:
    """One run.

    settings: the resolved configuration, flattened to dotted keys; `method` and `backbone` hold the registered names.
    metrics: per IoU type (bbox, segm) AP, AP50, AP75, APs, APm, APl, APr, APc, APf in percent, None if undefined.
    statistics: the method's own figures (acceptance_rate in 0..1, skipped, skipped_share); of an offline stage the
    file that it left, its rows, and how many of them it has nothing for.
    curve: the learning curve, a point per evaluation: iteration, and the metrics by IoU type; empty if the end alone
    was evaluated.
    cost: wall_seconds, train_seconds, step_cpu_seconds or step_gpu_seconds, load (processes a core, at the end of
    training), evaluation_seconds, stage_seconds, iterations (of an offline stage its rows), steps_per_second,
    peak_host_mb, peak_gpu_mb, gpus. wall_seconds counts all starts of the run, lost ones too; allocated_seconds adds
    what its jobs held before the run began; starts counts them. (Records of before 2026-12 have the last start's
    wall_seconds and neither of the
    other two.) provenance: commit, dirty_diff, packages, hardware, job (the scheduler's id of it), restarts,
    fingerprints, parents, code, overrides (what `harness run` was given), method (about, source, origin, and the
    options' defaults). failure: kind and message, for a run that failed or waits.
    """

    run_id: Name
    name: Label
    status: Status
    settings: Annotated[dict[str, Any], AfterValidator(of_types(_Settings))] = field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    cost: Annotated[dict[str, float], PlainValidator(of_types(dict[str, float]))] = field(default_factory=dict)
    provenance: Annotated[dict[str, Any], AfterValidator(of_types(_Provenance))] = field(default_factory=dict)
    failure: dict[str, str] | None = None
    started: Time | None = None
    ended: Time | None = None
    schema: int = SCHEMA

    @property
    def stage(self) -> str:
        """The offline stage that the run is, whose figures are no detector's; empty for a run that is none."""
        name = self.settings.get("stage.name")
        return str(name) if name not in (None, "none") else ""


def run_id(prefix: str, identity: Mapping[str, Any]) -> str:
    """`prefix` and ten hexadecimal digits of the SHA-256 of what the result depends on."""
    canonical = json.dumps(identity, sort_keys=True, default=str)
    return f"{prefix}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


def record_path(runs: Path, run: str) -> Path:
    return runs / run / "record.json"


def write_record(runs: Path, record: Record) -> None:
    write_json(record_path(runs, record.run_id), asdict(record))


def read_record(runs: Path, run: str) -> Record | None:
    """The record of a run; None if it has left none yet. Raises Damaged naming a file that is no record of it."""
    if not is_name(run):
        return None
    path = record_path(runs, run)
    remedy = "delete the file and run `harness sweep` again"
    record: Record | None = read_json(path, Record, "a record", remedy, SCHEMA)
    if record is not None and record.run_id != run:
        raise Damaged(f"{path} is not a record of this run (it says {record.run_id}); {remedy}")
    return record


def record_as_found(runs: Path, run: str) -> Record | None:
    """Like `read_record`; for a damaged one, a record of a failure that says so, so that others can be shown."""
    try:
        return read_record(runs, run)
    except Damaged as damage:
        failure = {"kind": FailureKind.damaged_record.value, "message": str(damage)}
    except OSError as error:
        message = f"{record_path(runs, run)} cannot be read ({error.strerror})"
        failure = {"kind": FailureKind.damaged_record.value, "message": message}
    return Record(run, run, Status.failed, failure=failure)


def read_records(runs: Path) -> list[Record]:
    """Every record below `runs`, by run_id; damaged ones as `record_as_found` has them."""
    if not runs.is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(runs) if entry.is_dir())
    found = read_each(partial(record_as_found, runs), names)
    return [record for record in found if record is not None]
