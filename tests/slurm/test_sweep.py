"""Sweeps on a real SLURM: what is submitted, what is told, how failures are told apart."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.record.manifest import read_manifest
from harness.run import claim
from tests.slurm.cluster import Cluster
from tests.slurm.project import Project

TWO = """
grid:
  - {name: baseline, method: baseline, schedule: mini, schedule.iterations: 4}
  - {method: copy_paste, schedule: mini_continue, schedule.iterations: 4}
after:
  - {when: {method: copy_paste}, init_from: {name: baseline}}
"""
LONG = "grid: {method: baseline, schedule.iterations: 100000, seed: [0, 1]}\n"
PLUGIN = """
from dataclasses import dataclass
from methods import register
from methods.contract import Method


@register("breaks")
@dataclass
class Breaks(Method):
    \"\"\"Raises at its first step.\"\"\"

    def select(self, step):
        raise RuntimeError("the method is broken")
"""


@pytest.fixture
def without_accounts(unaccounted: Cluster, tmp_path: Path, mini_root: Path) -> Project:
    return Project(tmp_path, unaccounted)


def test_dry_run_submits_nothing_and_names_resources(project: Project) -> None:
    project.write_sweep("two", TWO)
    printed = project.sweep("two", "launcher.partition=main", "launcher.minutes=77", "--dry-run")
    assert "partition=main" in printed
    assert "time=77" in printed
    assert "2 of 2 runs to do" in printed
    assert not (project.runs / "sweeps").exists()
    assert project.cluster.command("squeue", "--noheader").strip() == ""


def test_failed_parent_leaves_its_child_waiting_and_its_sibling_alone(project: Project) -> None:
    """The parent breaks, the child waits, the sibling completes; mended, `retry` runs what is left."""
    (project.folder / "breaks.py").write_text(PLUGIN)
    project.write_sweep(
        "family",
        """
grid:
  - {name: good, method: baseline, schedule.iterations: 4}
  - {name: broken, method: breaks, method_paths: '[breaks.py]', schedule.iterations: 4}
  - {name: child, method: copy_paste, schedule.iterations: 4}
after:
  - {when: {name: child}, init_from: {name: broken}}
""",
    )
    printed = project.sweep("family")
    assert "submitted, waiting" in printed
    states = {row["name"]: row for row in project.wait("family").values()}
    assert states["good"]["state"] == "complete", project.output()
    assert states["good"]["metrics"]["bbox"]["AP"] is not None
    assert states["broken"]["state"] == "failed"
    assert states["broken"]["failure_kind"] == "python error"
    assert "the method is broken" in states["broken"]["reason"]
    assert states["child"]["state"] == "waiting"
    assert states["broken"]["run_id"] in states["child"]["reason"]
    assert project.harness("status", "family", code=1).count("failed") >= 1
    assert "RuntimeError: the method is broken" in project.harness("logs", "name=broken")
    assert "--trust" in project.harness("retry", "family", "status=failed", code=1), "code that the manifest names"
    printed = project.harness("retry", "family", "status=failed", "--trust", "breaks.py")
    assert printed.count("submitted") >= 2, "the child that waits goes along"
    project.harness("cancel", "family")


def test_cancel_by_filter_and_retry_goes_on_from_the_checkpoint(project: Project) -> None:
    project.write_sweep("long", LONG)
    project.sweep("long", "+launcher.sbatch.hold=true")
    release(project, "long", "0")
    project.cluster.wait_for(lambda: len(list(project.runs.glob("*-s0-*/checkpoint/0*"))) > 0, 120)
    project.harness("cancel", "long", "seed=0")
    states = {row["axes"]["seed"]: row["state"] for row in project.states("long").values()}
    assert states["1"] == "pending"
    (one,) = project.runs.glob("*-s0-*")
    project.cluster.wait_for(lambda: project.states("long", "seed=0")[one.name]["state"] == "cancelled", 60)
    assert "resumed" in project.harness("retry", "long", "seed=0", "launcher.minutes=9")
    release(project, "long", "0")
    project.cluster.wait_for(lambda: "resuming from step" in (one / "log.txt").read_text(), 120)
    project.harness("cancel", "long")
    project.wait("long")
    limits = project.cluster.command(
        "sacct", "--noheader", "--allocations", "--format=TimelimitRaw", "--starttime=now-1hours"
    )
    assert "9" in limits.split()


def release(project: Project, sweep: str, seed: str) -> None:
    """Lets a job start that was submitted held."""
    (row,) = project.states(sweep, f"seed={seed}").values()
    project.cluster.command("scontrol", "release", row["job"])


def test_killed_without_accounting_is_seen_and_resumed(without_accounts: Project) -> None:
    """Nothing but the claim and the queue tell that the job is gone."""
    project = without_accounts
    project.write_sweep("long", LONG)
    project.sweep("long", "seed=0")
    (run,) = read_manifest(project.runs, "long").runs  # type: ignore[union-attr]
    folder = project.runs / run.run_id
    project.cluster.wait_for(lambda: len(list(folder.glob("checkpoint/0*"))) > 0, 120)
    owner = claim.owner(folder)
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    states = project.wait("long")
    assert states[run.run_id]["state"] in ("interrupted", "failed")
    assert "resumed" in project.sweep("long", "seed=0")
    project.cluster.wait_for(lambda: "resuming from step" in (folder / "log.txt").read_text(), 120)
    project.harness("cancel", "long")
    assert project.wait("long")[run.run_id]["state"] == "cancelled"


def test_two_nodes_with_two_ranks_each_train_together(project: Project) -> None:
    project.write_sweep("ranks", "grid: {method: baseline, schedule.iterations: 3}\n")
    # The nodes' names are not to be found outside of this cluster.
    address = 'launcher.setup=["export MASTER_ADDR=127.0.0.1"]'
    nodes = ("launcher.nodes=2", "launcher.cpus=1", "launcher.memory_gb=4", "+launcher.sbatch.gpus-per-node=2")
    project.sweep("ranks", "schedule.global_batch=8", *nodes, address)
    (row,) = project.wait("ranks").values()
    assert row["state"] == "complete", project.output()
    outputs = list(project.runs.glob("sweeps/ranks/jobs/*/*_log.out"))
    assert len(outputs) == 4, "one output a rank"
    (record,) = project.records("ranks").values()
    assert record.settings["schedule.global_batch"] == 4 * record.settings["schedule.batch_per_rank"]


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["main", "strict"])
def test_preempted_run_is_queued_again_and_completes(project: Project, partition: str) -> None:
    """With grace the run saves itself; without, SLURM kills it and it goes on from its last checkpoint."""
    project.write_sweep("one", "grid: {method: baseline, schedule.iterations: 40}\n")
    project.sweep("one", f"launcher.partition={partition}")
    (run,) = read_manifest(project.runs, "one").runs  # type: ignore[union-attr]
    folder = project.runs / run.run_id
    project.cluster.wait_for(lambda: len(list(folder.glob("checkpoint/0*"))) > 0, 120)
    words = ["--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"]
    project.cluster.command("sbatch", *words)
    project.cluster.wait_for(lambda: len(list((folder / "claim").iterdir())) == 2, 120)
    assert project.wait("one")[run.run_id]["state"] == "complete", project.output()
    assert "resuming from step" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_time_limit_shorter_than_the_run(project: Project) -> None:
    project.write_sweep("one", "grid: {method: baseline, schedule.iterations: 600}\n")
    project.sweep("one", "launcher.minutes=1", "launcher.signal_seconds=20")
    (row,) = project.wait("one", seconds=500).values()
    assert row["state"] == "complete", project.output()
    assert len(list((project.runs / row["run_id"] / "claim").iterdir())) >= 2
