"""A thousand runs: submitted, shown and cancelled without anything that grows with the square."""

from __future__ import annotations

import time
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.project import Project

RUNS = 1000


def test_thousand_held_runs(accounted: Cluster, tmp_path: Path, mini_root: Path) -> None:
    project = Project(tmp_path, accounted)
    seeds = ", ".join(str(seed) for seed in range(RUNS))
    project.write_sweep("many", f"grid: {{method: baseline, seed: [{seeds}]}}\n")

    started = time.monotonic()
    printed = project.sweep("many", "+launcher.sbatch.hold=true")
    submitted = time.monotonic()
    states = project.states("many")
    shown = time.monotonic()
    assert len(states) == RUNS
    assert {row["state"] for row in states.values()} == {"pending"}
    assert {row["reason"] for row in states.values()} == {"JobHeldUser"}
    assert len({row["job"] for row in states.values()}) == RUNS
    assert len(accounted.command("squeue", "--noheader").splitlines()) <= 2, "arrays are what makes it fast"
    assert "skipped: pending" not in printed

    again = project.sweep("many")
    assert again.count("skipped: pending") == RUNS
    assert "1 runs" not in again
    project.harness("cancel", "many")
    assert accounted.command("squeue", "--noheader").strip() == ""
    states = project.states("many", "status=cancelled")
    assert len(states) == RUNS
    print(f"\n{RUNS} runs: submitted in {submitted - started:.1f} s, shown in {shown - submitted:.1f} s")
