"""Finds the runs of a sweep that are not complete, and submits them to SLURM or runs them here."""

from __future__ import annotations

import dataclasses
import getpass
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.live import Live
from rich.table import Table

from harness.errors import UserError
from harness.launch import queue, slurm, tables
from harness.launch.exit_codes import NOT_UNDER_WAY, STOPPED, exit_code
from harness.launch.job import cancelled_path
from harness.launch.local import Local
from harness.launch.queue import Look
from harness.launch.resources import check_resources, runs_a_job
from harness.launch.state import ACTIVE, RunState, State, collect
from harness.launch.trust import Code, refuse_others_code
from harness.record.files import share_with_group
from harness.record.manifest import (
    ExpectedRun,
    Manifest,
    Submission,
    read_manifest,
    read_manifests,
    sweep_names,
    write_manifest,
)
from harness.run import claim

LOOK_SECONDS, TELL_SECONDS = 2.0, 60.0  # between two looks at all runs, and two lines about them


def submit_runs(
    runs_dir: Path,
    sweep: str,
    update: Callable[[Manifest | None], Manifest],
    wanted: Iterable[str],
    trusted: Code,
    show_table: bool = True,
) -> int:
    """Submits the `wanted` runs of a sweep that are neither complete nor under way.

    The exit code is 3 if a limit on jobs left some of them. `update` turns the manifest on disk into the one to go
    on with. One submitter works on a sweep at a time. trusted: the code that runs may execute. Raises UserError.
    """
    share_with_group(runs_dir)
    folder = runs_dir / "sweeps" / sweep
    held = claim.take(folder)
    if held is None:
        other = claim.owner(folder)
        where = f"process {other.pid} on {other.host}" if other else "another process"
        raise UserError(f"{where} is already working on sweep {sweep}; `harness status {sweep}` shows it")
    with held:
        manifest, chosen = update(read_manifest(runs_dir, sweep)), set(wanted)
        runs = [run for run in manifest.runs if run.run_id in chosen]
        refuse_others_code(sweep, runs, trusted)
        for run in runs:
            check_resources(run.resources)
        write_manifest(runs_dir, manifest)
        launchers = {run.resources["name"] for run in runs}
        if launchers == {"slurm"}:
            return _submit_to_slurm(runs_dir, manifest, runs, show_table)
        if launchers == {"local"}:
            return _work_locally(runs_dir, manifest, runs)
        raise UserError(f"expected one launcher for all runs, local or slurm, not {', '.join(sorted(launchers))}")


def states_of(runs_dir: Path, sweep: str, runs: Sequence[ExpectedRun], look: Look | None = None) -> dict[str, RunState]:
    """The state of these runs, submissions by other sweeps that share them included, by one look at the scheduler."""
    chosen = {run.run_id for run in runs}
    listed: list[Manifest] = []
    others = read_manifests(runs_dir, [name for name in sweep_names(runs_dir) if name != sweep])
    for manifest in [read_manifest(runs_dir, sweep) or Manifest(sweep, "", None, []), *others]:
        own = list(runs) if manifest.sweep == sweep else [run for run in manifest.runs if run.run_id in chosen]
        listed += [dataclasses.replace(manifest, runs=own)] if own else []
    look = look or queue.look(submission for manifest in listed for submission in manifest.submissions)
    found: dict[str, RunState] = {}
    for manifest in listed:
        for row in collect(runs_dir, [manifest], look):
            known = found.get(row.run.run_id)
            weight = {State.unknown: 1, State.pending: 2, State.running: 2}
            if known is None or weight.get(row.state, 0) > weight.get(known.state, 0):
                found[row.run.run_id] = row
    return found


# ------------------------------------------------------------------------------------------------------- on SLURM


def _submit_to_slurm(runs_dir: Path, manifest: Manifest, runs: Sequence[ExpectedRun], show_table: bool) -> int:
    """One look decides what is open; a scheduler that gives no answer is an error, since nothing is known then."""
    out = tables.console()
    look = queue.look(_all_submissions(runs_dir, manifest)).required()
    for line in slurm.reconcile(runs_dir, manifest, look):
        out.print(line, highlight=False)
    everything = states_of(runs_dir, manifest.sweep, manifest.runs, look)
    states = {run.run_id: everything[run.run_id] for run in runs}
    open_runs = _to_submit(runs_dir, runs, states)
    active = {run_id: row.job for run_id, row in everything.items() if row.state in ACTIVE and row.job}
    resumed = {run.run_id for run in open_runs if _has_checkpoint(runs_dir, run)}
    allowed = open_runs[: _room(open_runs, manifest, look)]
    shared = set(active.values())
    stuck = [job for run in allowed if (job := states[run.run_id].job) in look.jobs and job and job not in shared]
    if stuck:  # jobs that can never start; two for one run would confuse whoever looks at the queue
        queue.cancel(stuck, look)
    done = slurm.submit(runs_dir, manifest, allowed, active, lambda line: out.print(line, highlight=False))
    if show_table:
        out.print(_submitted_table(runs, states, done.jobs, resumed))
    left = len(open_runs) - len(done.jobs)
    if left:
        why = done.limit or f"launcher.jobs={open_runs[0].resources['jobs']} at a time"
        if show_table or done.jobs:
            out.print(f"{len(done.jobs)} of {len(open_runs)} runs submitted, {left} not: {why}", highlight=False)
        if show_table:
            further = "submits more once some have ended; with `--wait` it does so by itself"
            out.print(f"`harness sweep {manifest.sweep}` {further}", highlight=False)
        return NOT_UNDER_WAY
    if show_table:
        out.print(f"`harness status {manifest.sweep}` shows their state, `harness report` their results so far.")
    return 0


def _room(runs: Sequence[ExpectedRun], manifest: Manifest, look: Look) -> int:
    """How many of these runs, parents first, may be submitted beside the sweep's jobs that wait or run."""
    limits = [limit for run in runs if (limit := run.resources.get("jobs")) is not None]
    names = {submission.job_name for submission in manifest.submissions}
    active = sum(job.name in names and job.state != "COMPLETING" for job in look.jobs.values())
    return max(0, min(limits) - active) * runs_a_job(runs[0].resources) if limits else len(runs)


def _all_submissions(runs_dir: Path, manifest: Manifest) -> list[Submission]:
    """Those of every sweep, since sweeps share runs."""
    others = read_manifests(runs_dir, [name for name in sweep_names(runs_dir) if name != manifest.sweep])
    found = [submission for other in others if other for submission in other.submissions]
    me = Submission("", "", "slurm", [], user=getpass.getuser())  # whoever submits is to hear from SLURM first
    return [me, *manifest.submissions, *found]


def _to_submit(runs_dir: Path, runs: Sequence[ExpectedRun], states: dict[str, RunState]) -> list[ExpectedRun]:
    """Runs that are neither complete nor under way, with earlier cancellations cleared.

    Raises UserError if one may be under way.
    """
    for row in states.values():
        if row.state is State.unknown:
            raise UserError(f"{row.run.run_id} may already be running, so nothing is started: {row.reason}")
    chosen = [run for run in runs if states[run.run_id].state not in (State.complete, *ACTIVE)]
    for run in chosen:
        cancelled_path(runs_dir, run.run_id).unlink(missing_ok=True)
    return chosen


def _has_checkpoint(runs_dir: Path, run: ExpectedRun) -> bool:
    return any((runs_dir / run.run_id / "checkpoint").glob("[0-9f]*"))


def _submitted_table(
    runs: Sequence[ExpectedRun], states: dict[str, RunState], jobs: dict[str, str], resumed: set[str]
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "", "what", "job", "after"):
        table.add_column(heading, no_wrap=heading != "after")
    for run in runs:
        row = states[run.run_id]
        if row.state is State.complete:
            what = "skipped: complete, stale" if row.stale else "skipped: complete"
        elif row.state in ACTIVE:
            what = f"skipped: {row.state.value}"
        else:
            what = "resumed" if run.run_id in resumed else "submitted"
            what = what if run.run_id in jobs else "not submitted"
        pending = [p for p in run.parents if p in jobs or (p in states and states[p].state in ACTIVE)]
        after = [jobs.get(parent) or states[parent].job or parent for parent in pending] if run.run_id in jobs else []
        what = f"{what}, waiting" if after else what
        job = jobs.get(run.run_id, row.job)
        table.add_row(run.run_id, tables.axes(run.name, run.axes), what, job, ", ".join(after))
    return table


# ------------------------------------------------------------------------------------------------------ locally


def _work_locally(runs_dir: Path, manifest: Manifest, runs: Sequence[ExpectedRun]) -> int:
    out = tables.console()
    look = queue.look(_all_submissions(runs_dir, manifest)[1:])  # what was handed to SLURM earlier is asked for once
    states = states_of(runs_dir, manifest.sweep, runs, look)
    open_runs = _to_submit(runs_dir, runs, states)
    skipped = len(runs) - len(open_runs)
    stale = sum(row.stale for row in states.values())
    out.print(
        f"{manifest.sweep}: {skipped} runs complete or running elsewhere{f' ({stale} stale)' if stale else ''}, "
        f"{len(open_runs)} to run",
        highlight=False,
    )
    if not open_runs:
        return 0
    own = dataclasses.replace(manifest, runs=list(runs))
    parallel = max(run.resources["parallel"] for run in open_runs)
    if out.is_terminal:
        with Live(
            console=out,
            refresh_per_second=1 / LOOK_SECONDS,
            get_renderable=lambda: tables.states(collect(runs_dir, [own], look), out.width),
        ):
            finished = Local(runs_dir, manifest, open_runs, parallel, lambda: None).work()
    else:
        lines = _PlainLines(runs_dir, own, look)
        finished = Local(runs_dir, manifest, open_runs, parallel, lines).work()
        lines.look()  # what ended since the last look
    rows = collect(runs_dir, [own], look)
    out.print(tables.states(rows) if not out.is_terminal else tables.counts(rows))
    if not finished:
        out.print(f"stopped; `harness sweep {manifest.sweep}` resumes from the checkpoints", highlight=False)
    return exit_code(rows) if finished else STOPPED


class _PlainLines:
    """Prints every change of a run's state on its own line, and the sweep's progress once a minute, for logs and
    pipes."""

    def __init__(self, runs_dir: Path, manifest: Manifest, look: Look) -> None:
        self._runs_dir = runs_dir
        self._manifest = manifest
        self._look = look
        self._reported = {row.run.run_id: row.state for row in collect(runs_dir, [manifest], look)}
        self._out = tables.console()
        self._looked = self._told = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self.look()

    def look(self) -> None:
        rows = collect(self._runs_dir, [self._manifest], self._look)
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._out.print(f"{self._manifest.sweep}: {tables.progress(rows)}", highlight=False)
        for row in rows:
            before, self._reported[row.run.run_id] = self._reported[row.run.run_id], row.state
            if row.state is before or row.state in (State.missing, State.waiting):
                continue
            words = [tables.axes(row.run.name, row.run.axes), row.state.value]
            box = (row.metrics or {}).get("bbox", {})
            words += [f"{key} {value:.1f}" for key in ("AP", "APr") if (value := box.get(key)) is not None]
            words += [row.reason] if row.state is State.failed else []
            self._out.print(f"{row.run.run_id}: {', '.join(words)}", highlight=False)
