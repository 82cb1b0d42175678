"""Naming runs on the command line: a sweep, a run_id or its beginning, a job's id, filters such as status=failed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError, nearest
from harness.launch.queue import Look
from harness.launch.state import RunState, State, collect, jobs_of
from harness.record.manifest import ExpectedRun, Manifest, read_manifests, sweep_names
from harness.record.reading import is_name
from harness.record.record import record_as_found


def select(runs_dir: Path, words: Sequence[str], look: Look | None = None) -> list[RunState]:
    """The runs that all filters fit, of the named sweeps or all of them; each run once. look: as in `collect`.

    Raises UserError for words that name nothing.
    """
    names = sweep_names(runs_dir)
    filters = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    sweeps = [word for word in plain if word in names]
    manifests = read_manifests(runs_dir, sweeps or names)
    if not sweeps:
        manifests.append(_single_runs(runs_dir, manifests))
    wanted = [word for word in plain if word not in names]
    if wanted:
        wanted = [run_id for word in wanted for run_id in _runs_of_job(manifests, word) or [word]]
        ids = [run.run_id for manifest in manifests for run in manifest.runs]
        for word in wanted:
            if not any(run_id.startswith(word) for run_id in ids):
                raise UserError(
                    f"neither a sweep nor a run in {runs_dir} is called '{word}'; {nearest(word, [*names, *ids])}"
                )
        manifests = [_only(manifest, tuple(wanted)) for manifest in manifests]
    by_id: dict[str, RunState] = {}
    for row in collect(runs_dir, manifests, look):
        by_id.setdefault(row.run.run_id, row)  # of several sweeps that share a run, the first shows it
    rows = list(by_id.values())
    _check(filters, rows)
    return [row for row in rows if all(value_of(row, key) in value.split(",") for key, value in filters.items())]


def _runs_of_job(manifests: Sequence[Manifest], word: str) -> list[str]:
    """The runs that a job of SLURM's was for: `123_4` one element's, `123` all of an array's."""
    if not word.replace("_", "").isdecimal():
        return []
    jobs = {run_id: [job for _, job in own] for manifest in manifests for run_id, own in jobs_of(manifest).items()}
    return [run_id for run_id, own in jobs.items() if any(word in (job, job.partition("_")[0]) for job in own)]


def value_of(row: RunState, key: str) -> str | None:
    """The value of a filter's key in a run: status, name, an axis of the grid, a group, or a setting given."""
    if key == "status":
        return row.state.value
    if key == "name":
        return row.run.name
    given = dict(text.split("=", 1) for text in row.run.overrides if "=" in text)
    return (row.run.choices | given | row.run.axes).get(key)


def _check(filters: dict[str, str], rows: Sequence[RunState]) -> None:
    keys = {"status", "name"}
    for row in rows:
        keys |= row.run.choices.keys() | {text.partition("=")[0] for text in row.run.overrides}
    for key, value in filters.items():
        if key not in keys:
            raise UserError(f"{key}={value}: no run has the setting '{key}'; {nearest(key, keys)}")
        known = {s.value for s in State} if key == "status" else {str(value_of(row, key)) for row in rows}
        for one in value.split(","):
            if one not in known:
                raise UserError(f"{key}={one}: no run has it; {nearest(one, known)}")


def _only(manifest: Manifest, beginnings: tuple[str, ...]) -> Manifest:
    return dataclasses.replace(manifest, runs=[run for run in manifest.runs if run.run_id.startswith(beginnings)])


def _single_runs(runs_dir: Path, manifests: Sequence[Manifest]) -> Manifest:
    """Runs that belong to no sweep, as `harness run` leaves them."""
    known = {run.run_id for manifest in manifests for run in manifest.runs}
    folders = sorted(entry.name for entry in os.scandir(runs_dir)) if runs_dir.is_dir() else []
    runs = []
    for name in folders:
        if name in known or not is_name(name) or not (runs_dir / name / "claim").is_dir():
            continue
        record = record_as_found(runs_dir, name)
        settings = record.settings if record else {}
        given = [f"{key}={settings[key]}" for key in ("method", "backbone", "seed") if key in settings]
        planned = settings.get("schedule.iterations")
        iterations = planned if isinstance(planned, int) else 0
        runs.append(ExpectedRun(name, record.name if record else name, given, {}, iterations=iterations))
    return Manifest("", "runs that belong to no sweep", None, runs)
