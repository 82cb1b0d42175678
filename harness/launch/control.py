"""`harness cancel` and `harness retry`."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError, nearest
from harness.launch import tables
from harness.launch.job import cancelled_path
from harness.launch.select import select
from harness.launch.state import ACTIVE, RunState, State
from harness.launch.submit import submit_runs
from harness.record.manifest import ExpectedRun, Manifest, read_manifest
from harness.run import claim, scheduler


def cancel(runs_dir: Path, words: Sequence[str]) -> int:
    """Cancels those of the selected runs that wait or run. What they have saved stays; `retry` goes on from it.

    Raises UserError for words that name nothing and for a scheduler that is silent.
    """
    if not words:
        raise UserError("say what to cancel: a sweep, a run, or filters such as method=bsgal")
    rows = [row for row in select(runs_dir, words) if row.state in ACTIVE]
    for row in rows:
        marker = cancelled_path(runs_dir, row.run.run_id)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    scheduler.cancel([row.job for row in rows if row.job and row.run.resources.get("name") == "slurm"])
    for row in rows:
        if row.run.resources.get("name") != "slurm":
            _stop_process(runs_dir, row)
    tables.console().print(f"cancelled {len(rows)} runs", highlight=False)
    return 0


def retry(runs_dir: Path, words: Sequence[str]) -> int:
    """Submits again those of the selected runs that failed, were cancelled or stopped, and what waits for them.

    Words that begin with `launcher.` are no filters: they change the resources of what is submitted, for instance
    `harness retry mini status=failed launcher.memory_gb=64`. Raises UserError.
    """
    changes = dict(word.split("=", 1) for word in words if word.startswith("launcher.") and "=" in word)
    rows = select(runs_dir, [word for word in words if not word.startswith("launcher.")])
    chosen = [row for row in rows if row.state not in (State.complete, *ACTIVE)]
    if not chosen:
        tables.console().print("nothing to retry: every selected run is complete or on its way", highlight=False)
        return 0
    code = 0
    for sweep in dict.fromkeys(row.sweep for row in chosen):
        if not sweep:
            raise UserError("a run that belongs to no sweep is started again by `harness run` with its overrides")
        wanted = {row.run.run_id for row in chosen if row.sweep == sweep}
        manifest = read_manifest(runs_dir, sweep)
        wanted |= _descendants(manifest.runs if manifest else [], wanted)

        def updated(earlier: Manifest | None, wanted: set[str] = wanted, sweep: str = sweep) -> Manifest:
            if earlier is None:
                raise UserError(f"the manifest of sweep {sweep} is gone; `harness sweep {sweep}` writes it anew")
            for run in earlier.runs:
                if run.run_id in wanted:
                    _change(run, changes)
            return earlier

        code = max(code, submit_runs(runs_dir, sweep, updated, wanted))
    return code


def _stop_process(runs_dir: Path, row: RunState) -> None:
    owner = claim.owner(runs_dir / row.run.run_id)
    if owner is not None and claim.held(runs_dir / row.run.run_id, lambda job: None):
        os.kill(owner.pid, signal.SIGTERM)
    elif row.job:
        os.kill(int(row.job), signal.SIGTERM)


def _descendants(runs: Sequence[ExpectedRun], roots: set[str]) -> set[str]:
    found = set(roots)
    for run in runs:  # parents stand before their children
        if found.intersection(run.parents):
            found.add(run.run_id)
    return found - roots


def _change(run: ExpectedRun, changes: dict[str, str]) -> None:
    """Puts other launcher settings into a run."""
    for key, text in changes.items():
        name = key.removeprefix("launcher.")
        if name not in run.resources or name in ("name", "ranks"):
            raise UserError(f"{key}={text}: no such launcher setting; {nearest(name, list(run.resources))}")
        value: Any = yaml.safe_load(text)
        old = run.resources[name]
        if isinstance(old, int | float) and not isinstance(value, int | float):
            raise UserError(f"{key}={text}: a number is expected")
        run.resources[name] = value
        run.overrides = [o for o in run.overrides if o.partition("=")[0] != key] + [f"{key}={text}"]
