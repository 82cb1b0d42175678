"""`harness sweep --dry-run`: what would run, with which resources, and what it would cost by earlier runs' records."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from harness.launch import tables
from harness.launch.resources import sbatch_parameters
from harness.launch.state import ACTIVE, RunState, State
from harness.record.manifest import ExpectedRun
from harness.record.record import Record, Status, read_records


def show_plan(runs: Sequence[ExpectedRun], states: dict[str, RunState], runs_dir: Path) -> None:
    """Prints the table of runs, the sbatch parameters of each group, and the hours."""
    out = tables.console()
    records = [record for record in read_records(runs_dir) if record.status is Status.complete]
    open_runs = [run for run in runs if states[run.run_id].state not in (State.complete, *ACTIVE)]
    hours = {run.run_id: estimated_hours(run, records) for run in open_runs}
    out.print(_table(runs, states, hours))
    if runs[0].resources["name"] == "slurm":
        for parameters, count in Counter(_sbatch_words(run) for run in open_runs).items():
            out.print(f"sbatch, {count} runs: {parameters}", highlight=False, markup=False)
        for asked, needed in _walltimes(open_runs, records):
            out.print(f"launcher.minutes={asked}, but similar runs took up to {needed} minutes", highlight=False)
    out.print(f"{len(open_runs)} of {len(runs)} runs to do" + _expected_cost(open_runs, hours), highlight=False)


def _expected_cost(open_runs: Sequence[ExpectedRun], hours: Mapping[str, float | None]) -> str:
    """What the runs will take by earlier records, as the end of a sentence."""
    known = [(run, own) for run in open_runs if (own := hours[run.run_id]) is not None]
    if not open_runs:
        return ""
    if not known:
        return "; no earlier run tells how long they take"
    gpu_hours = sum(_gpus(run) * own for run, own in known)
    unknown = len(open_runs) - len(known)
    cost = f": {sum(own for _, own in known):.1f} hours of runs, {gpu_hours:.1f} GPU hours by earlier records"
    return cost + (f"; {unknown} runs without an earlier one" if unknown else "")


def estimated_hours(run: ExpectedRun, records: Sequence[Record]) -> float | None:
    """Hours of a run, from complete runs of the same method and backbone on the same data; None without any."""
    seconds = [record.cost["wall_seconds"] / record.cost["iterations"] for record in _alike(run, records)]
    return statistics.median(seconds) * run.iterations / 3600 if seconds else None


def _alike(run: ExpectedRun, records: Sequence[Record]) -> list[Record]:
    alike = {"method": run.choices["method"], "backbone": run.choices["backbone"], "data.name": run.choices["data"]}
    return [
        record
        for record in records
        if record.cost.get("iterations")
        and record.stage == run.stage
        and all(record.settings.get(key) == value for key, value in alike.items())
        and record.cost.get("gpus", 0.0) == _gpus(run)
    ]


def minutes_needed(run: ExpectedRun, records: Sequence[Record]) -> float | None:
    """The longest that earlier runs like this one took for as many steps, undisturbed; None without one."""
    seconds = [
        record.cost["train_seconds"] / record.cost["iterations"] * run.iterations + record.cost["evaluation_seconds"]
        for record in _alike(run, records)
        if {"train_seconds", "evaluation_seconds"} <= record.cost.keys()
    ]
    return max(seconds) / 60 if seconds else None


def _walltimes(runs: Sequence[ExpectedRun], records: Sequence[Record]) -> list[tuple[int, int]]:
    """Each time limit that is asked for, with the minutes that the longest of its runs needs by earlier records."""
    needed: dict[int, float] = {}
    for run in runs:
        own = minutes_needed(run, records)
        if own is not None:
            asked = run.resources["minutes"]
            needed[asked] = max(own, needed.get(asked, 0.0))
    return [(asked, math.ceil(longest)) for asked, longest in needed.items()]


def _sbatch_words(run: ExpectedRun) -> str:
    return " ".join(f"{key}={value}" for key, value in sbatch_parameters(run.resources).items())


def _gpus(run: ExpectedRun) -> float:
    return float(run.resources["gpus"] * run.resources["nodes"])


def _table(runs: Sequence[ExpectedRun], states: dict[str, RunState], hours: dict[str, float | None]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "", "now", "steps", "nodes", "GPUs", "CPUs", "GB", "minutes", "hours", "after"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("run", "", "now", "after") else "right")
    for run in runs:
        own, resources = hours.get(run.run_id), run.resources
        table.add_row(
            run.run_id,
            tables.axes(run.name, run.axes),
            states[run.run_id].state.value,
            str(run.iterations),
            *(str(resources[key]) for key in ("nodes", "gpus", "cpus", "memory_gb", "minutes")),
            f"{own:.2f}" if own is not None else "?" if run.run_id in hours else "",
            ", ".join(run.parents),
        )
    return table
