"""`harness status --cost`: the machine time that runs have used, including starts without a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.launch.resources import runs_a_job
from harness.launch.state import RunState, State
from harness.record.record import read_record
from harness.run import claim

WELL_SPENT = ("train_seconds", "evaluation_seconds", "stage_seconds")


def used(runs_dir: Path, rows: Sequence[RunState]) -> str:
    """Such as "12.5 hours of jobs in 18 starts, 50.0 GPU hours; 91% of complete runs' time was training or ...".

    Every start counts from its job's beginning to its last sign of life, whatever came of it.
    """
    seconds = gpu_seconds = complete = useful = 0.0
    starts = 0
    for row in rows:
        lives = claim.lives(runs_dir / row.run.run_id)
        own = sum(life.seconds + life.preparing for life in lives)
        starts += len(lives)
        seconds += own
        gpus = row.run.resources.get("gpus", 0) * row.run.resources.get("nodes", 1)
        gpu_seconds += own * gpus / runs_a_job(row.run.resources)
        record = read_record(runs_dir, row.run.run_id) if row.state is State.complete else None
        if record is not None and "starts" in record.cost:
            complete += record.cost.get("allocated_seconds", 0.0)
            useful += sum(record.cost.get(key, 0.0) for key in WELL_SPENT)
    text = f"{seconds / 3600:.1f} hours of jobs in {starts} starts, {gpu_seconds / 3600:.1f} GPU hours"
    return f"{text}; {useful / complete:.0%} of complete runs' time was training or evaluation" if complete else text
