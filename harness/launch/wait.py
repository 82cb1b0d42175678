"""Waits for a sweep on SLURM to end: submits what a limit left, and retries runs that need more resources."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.launch import tables
from harness.launch.changes import apply_changes, avoid_bad_node, cure
from harness.launch.exit_codes import exit_code
from harness.launch.state import ACTIVE, RunState, State
from harness.launch.status import Pace, under_way
from harness.launch.submit import states_of, submit_runs
from harness.launch.trust import Code
from harness.record.manifest import Manifest, read_manifest

# So many times in a row what is left is tried to be submitted, where nothing else is under way.
MOST_ERRORS = 3


def wait(runs_dir: Path, sweep: str, run_ids: Sequence[str], trusted: Code, notify: str | None = None) -> int:
    """Returns when nothing of these runs is under way and nothing more can be done; the exit code of the worst.

    Meanwhile runs that were not submitted, for a limit on jobs, are, and those whose failure more memory, more time or
    another node may cure are tried again, `launcher.retries` times each. `notify` is a shell command that then gets
    the count of states on stdin, once. Raises UserError if SLURM refuses the last runs that are left.
    """
    pace, out, errors = Pace(), tables.console(), 0
    while True:
        rows = _rows(runs_dir, sweep, run_ids)
        again, ready = _curable(rows), _startable(rows)
        if again or ready:
            try:
                submit_runs(runs_dir, sweep, _Update(again), _ids([*ready, *again]), trusted, False)
                rows, errors = _rows(runs_dir, sweep, run_ids), 0
            except UserError as error:  # SLURM may be away for a while, or another process be submitting
                errors += 1
                if errors >= MOST_ERRORS and not under_way(rows):
                    raise
                out.print(str(error), highlight=False, markup=False)
        if not under_way(rows) and not errors:
            break
        time.sleep(pace.seconds(rows))
    return end(runs_dir, sweep, run_ids, notify)


def end(runs_dir: Path, sweep: str, run_ids: Sequence[str], notify: str | None) -> int:
    """Prints how a sweep has ended, and sends it to `notify`; returns the exit code of the worst run."""
    rows = _rows(runs_dir, sweep, run_ids)
    summary = f"{sweep}: {tables.counts(rows)}"
    tables.console().print(summary, highlight=False)
    if notify:
        subprocess.run(notify, shell=True, input=summary + "\n", text=True, check=False)
    return exit_code(rows)


def _ids(rows: Sequence[RunState]) -> list[str]:
    return [row.run.run_id for row in rows]


def _rows(runs_dir: Path, sweep: str, run_ids: Sequence[str]) -> list[RunState]:
    manifest = read_manifest(runs_dir, sweep)
    wanted = set(run_ids)
    runs = [run for run in manifest.runs if run.run_id in wanted] if manifest else []
    return list(states_of(runs_dir, sweep, runs).values())


def _startable(rows: Sequence[RunState]) -> list[RunState]:
    """Runs that were not submitted yet, and whose parents are complete or under way."""
    well = {row.run.run_id for row in rows if row.state in (State.complete, *ACTIVE)}
    listed = {row.run.run_id for row in rows}
    found = []
    for row in rows:  # parents come before their children
        parents = listed.intersection(row.run.parents)
        if row.state in (State.missing, State.waiting) and parents <= well:
            found.append(row)
            well.add(row.run.run_id)
    return found


def _curable(rows: Sequence[RunState]) -> list[RunState]:
    stopped = (State.failed, State.interrupted)
    return [
        row
        for row in rows
        if row.state in stopped and row.run.retried < row.run.resources.get("retries", 0) and cure(row) is not None
    ]


class _Update:
    """The manifest with the settings that retried runs need."""

    def __init__(self, again: Sequence[RunState]) -> None:
        self._again = {row.run.run_id: row for row in again}

    def __call__(self, manifest: Manifest | None) -> Manifest:
        if manifest is None:
            raise UserError("the sweep's manifest is gone; `harness sweep` writes it again")
        for run in manifest.runs:
            row = self._again.get(run.run_id)
            if row is not None:
                apply_changes(run, cure(row) or {})
                avoid_bad_node(run, row)
                run.retried += 1
        return manifest
