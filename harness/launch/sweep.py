"""`harness sweep`: expands a sweep's file, submits what is missing and, if asked to, waits for the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from harness.config import RunConfig
from harness.launch import sweepfile, tables
from harness.launch.dryrun import show_plan
from harness.launch.expand import expand, given
from harness.launch.submit import states_of, submit_runs
from harness.launch.trust import Code
from harness.launch.wait import end, wait
from harness.record.manifest import ExpectedRun, Manifest


def launch_sweep(
    name: str, overrides: Sequence[str], dry_run: bool = False, stay: bool = False, notify: str | None = None
) -> int:
    """Submits the runs that a sweep is missing; local sweeps run to the end. Returns the exit code.

    stay: on SLURM too until the sweep has ended, as `wait` does, which `notify` is for as well. Raises UserError for a
    sweep, an override or a scheduler that the user must fix.
    """
    sweep = sweepfile.read(sweepfile.find(name))
    with Progress(transient=True, disable=not tables.console().is_terminal) as bar:
        task = bar.add_task("composing runs", total=None)
        runs = expand(sweep, overrides, lambda done, total: bar.update(task, completed=done, total=total))
    runs_dir = Path(given(runs[0].overrides, "runs_dir") or RunConfig.runs_dir)
    if dry_run:
        show_plan(runs, states_of(runs_dir, sweep.name, runs), runs_dir)
        return 0
    is_whole = not any(text.partition("=")[0] in (*sweep.axes, "name") for text in overrides)

    def updated(earlier: Manifest | None) -> Manifest:
        kept = [] if is_whole or earlier is None else _without(earlier.runs, runs)
        submissions = earlier.submissions if earlier else []
        return Manifest(sweep.name, sweep.description, sweep.report, [*kept, *runs], submissions)

    ids = [run.run_id for run in runs]
    named = Code.of_runs(runs)
    code = submit_runs(runs_dir, sweep.name, updated, ids, named)
    if not stay:
        return code
    if runs[0].resources["name"] == "local":
        return end(runs_dir, sweep.name, ids, notify)
    return wait(runs_dir, sweep.name, ids, named, notify)


def _without(earlier: Sequence[ExpectedRun], runs: Sequence[ExpectedRun]) -> list[ExpectedRun]:
    """Runs of an earlier submission that this one, of a part of the sweep, neither repeats nor replaces."""
    replaced = {tuple(sorted(run.axes.items())) for run in runs}
    ids = {run.run_id for run in runs}
    return [run for run in earlier if run.run_id not in ids and tuple(sorted(run.axes.items())) not in replaced]
