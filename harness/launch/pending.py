"""`harness change`: other settings for jobs that still wait in SLURM's queue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.bounds import number_fault, text_fault
from harness.errors import UserError, nearest
from harness.launch import tables
from harness.launch.changes import apply_changes, read_changes
from harness.launch.exit_codes import FAILED
from harness.launch.select import select
from harness.launch.state import RunState, State
from harness.record.manifest import read_manifest, write_manifest
from harness.run import claim
from harness.run.scheduler import ask

# What `scontrol update` calls our settings.
_NAMES = {
    "minutes": "TimeLimit", "memory_gb": "MinMemoryNode", "partition": "Partition", "account": "Account", "qos": "QOS",
    "constraint": "Features", "exclude": "ExcNodeList", "comment": "Comment", "parallel": "ArrayTaskThrottle",
}  # fmt: skip


def change(runs_dir: Path, words: Sequence[str]) -> int:
    """Changes the jobs of those of the selected runs that wait in the queue, and the settings of those runs.

    `harness change mini launcher.minutes=600 method=bsgal`. The exit code is 1 when SLURM refused one. Raises UserError
    for words that name nothing and for settings that a job in the queue cannot change.
    """
    changes, filters = read_changes(words)
    if not changes:
        raise UserError("say what to change, such as launcher.minutes=600")
    flags = _flags(changes)
    rows = [row for row in select(runs_dir, filters) if row.state is State.pending and row.job]
    refused: dict[str, str] = {}
    for row in rows:
        answer = ask("scontrol", "update", f"jobid={row.job}", *flags)
        if answer.silence:
            refused[row.run.run_id] = answer.silence
    changed = [row for row in rows if row.run.run_id not in refused]
    for sweep in dict.fromkeys(row.sweep for row in changed):
        try:
            _note(runs_dir, sweep, [row for row in changed if row.sweep == sweep], changes)
        except OSError as error:
            raise UserError(
                f"the jobs were changed, but the manifest of sweep {sweep} was not: {error}; mend that, then give the "
                "same command again"
            ) from error
    out = tables.console()
    out.print(f"changed {len(changed)} waiting jobs", highlight=False)
    for run_id, why in refused.items():
        out.print(f"not changed: {run_id}: {why}", highlight=False, markup=False)
    return FAILED if refused else 0


def _flags(changes: Mapping[str, str]) -> list[str]:
    flags = []
    for name, text in changes.items():
        if name not in _NAMES:
            raise UserError(
                f"launcher.{name}: cannot be changed in the queue (cancel and retry instead); {nearest(name, _NAMES)}"
            )
        if fault := text_fault(text):
            raise UserError(f"launcher.{name}={text!r}: {fault}")
        value = _megabytes(text) if name == "memory_gb" else text
        flags.append(f"{_NAMES[name]}={value}")
    return flags


def _megabytes(gigabytes: str) -> str:
    try:
        number = float(gigabytes)
    except ValueError:
        number = math.nan
    if fault := number_fault("launcher.memory_gb", number):
        raise UserError(f"launcher.memory_gb={gigabytes}: {fault}")
    return str(round(1024 * number))


def _note(runs_dir: Path, sweep: str, rows: Sequence[RunState], changes: Mapping[str, str]) -> None:
    """Keeps the manifest true, so that a retry asks for what the job had."""
    held = claim.take(runs_dir / "sweeps" / sweep)
    if held is None:
        raise UserError(
            f"the jobs were changed, but another process is working on sweep {sweep}, so its manifest was not"
        )
    with held:
        manifest = read_manifest(runs_dir, sweep)
        ids = {row.run.run_id for row in rows}
        for run in manifest.runs if manifest else []:
            if run.run_id in ids:
                apply_changes(run, changes)
        if manifest:
            write_manifest(runs_dir, manifest)
