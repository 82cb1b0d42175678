"""A sweep under everything that goes wrong on a cluster ends as the same sweep in peace."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.record.record import Record, Status
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.project import RESOURCES, Project

STEPS = 24
# The nodes' names are not to be found outside of this cluster.
ADDRESS = 'launcher.setup=["export MASTER_ADDR=127.0.0.1"]'
TWO_RANKS = (
    "schedule.global_batch=4",
    "launcher.cpus=1",
    "launcher.memory_gb=4",
    ADDRESS,
)
SWEEP = f"""
grid:
  - {{name: baseline, method: baseline, schedule: mini, seed: SEEDS}}
  - {{method: [copy_paste, xpaste, bsgal], schedule: mini_continue, data.pool: half_bad, seed: SEEDS}}
rules:
  - {{when: {{data: mini}}, set: {{schedule.iterations: {STEPS}}}}}
after:
  - {{when: {{schedule: mini_continue}}, init_from: {{name: baseline}}}}
"""


def _project(folder: Path, cluster: Cluster, seeds: str) -> Project:
    folder.mkdir()
    project = Project(folder, cluster)
    project.write_sweep("chaos", SWEEP.replace("SEEDS", seeds))
    return project


def _open_claims(project: Project) -> list[dict[str, Any]]:
    paths = project.runs.glob("*/claim/*/owner.json")
    return [json.loads(path.read_text()) for path in paths if not (path.parent / "released").exists()]


def _jobs_at_work(project: Project, seconds: float = 60.0) -> list[str]:
    """Waits for jobs whose runs have begun, since a job that is harmed before leaves no claim to count by."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and project.job_names():
        running = project.cluster.command("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split()
        if jobs := {claim["job"] for claim in _open_claims(project)}.intersection(running):
            return sorted(jobs)
        time.sleep(0.2)
    return []


def _requeue(project: Project, job: str) -> None:
    project.cluster.command("scontrol", "requeue", job, check=False)


def _warn(project: Project, job: str) -> None:
    project.cluster.command("scancel", "--signal=USR2", job, check=False)


def _terminate(project: Project, job: str) -> None:
    project.cluster.command("scancel", "--signal=TERM", job, check=False)


def _kill_process(project: Project, job: str) -> None:
    for owner in _open_claims(project):
        if owner["job"] == job:
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner["pid"], signal.SIGKILL)


def _lose_node(project: Project, job: str) -> None:
    """The node's daemon dies, the controller gives the node up, its jobs are queued again, the daemon comes back."""
    cluster = project.cluster
    node = cluster.command("squeue", "--noheader", f"--jobs={job}", "--format=%N", check=False).split()
    if not node or not node[0].startswith("n"):
        return
    number = int(node[0][1:])
    cluster.kill_node(number)
    cluster.command("scontrol", "update", f"nodename=n{number}", "state=down", "reason=test")
    time.sleep(2)
    cluster.start_node(number)
    cluster.command("scontrol", "update", f"nodename=n{number}", "state=resume", check=False)


def _drain_node(project: Project, job: str) -> None:
    """A drained node takes no new jobs; those that run there go on."""
    node = f"nodename=n{NODES}"
    project.cluster.command("scontrol", "update", node, "state=drain", "reason=test")
    time.sleep(2)
    project.cluster.command("scontrol", "update", node, "state=resume", check=False)


def _cancel_and_retry(project: Project, job: str) -> None:
    project.cluster.command("scancel", job, check=False)
    time.sleep(6)
    project.harness("retry", "chaos", "status=cancelled,interrupted,failed", ADDRESS, code=None)


CHAOS: list[Callable[[Project, str], None]] = [
    _warn, _requeue, _kill_process, _lose_node, _terminate, _cancel_and_retry, _drain_node, _warn, _requeue,
]  # fmt: skip


def _kill_the_submitter(project: Project, *overrides: str) -> None:
    """Kills `harness sweep` right after its first sbatch, then lets two others go at it at once."""
    submitter = project.start("sweep", "chaos", *RESOURCES, *overrides)
    project.cluster.wait_for(lambda: project.cluster.command("squeue", "--noheader").strip())
    submitter.kill()
    submitter.communicate()
    both = [project.start("sweep", "chaos", *RESOURCES, *overrides) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert 0 in [process.returncode for process in both], printed


def _numbers(record: Record) -> dict[str, object]:
    return {"metrics": record.metrics, "statistics": record.statistics}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "runs", "overrides"),
    [
        pytest.param("[0, 1, 2]", 12, (), id="one-rank"),
        pytest.param("[3]", 4, TWO_RANKS, id="two-ranks"),
    ],
)
def test_chaos_changes_nothing(
    accounted: Cluster, tmp_path: Path, mini_root: Path, seeds: str, runs: int, overrides: tuple[str, ...]
) -> None:
    calm = _project(tmp_path / "calm", accounted, seeds)
    calm.sweep("chaos", *overrides)
    assert {row["state"] for row in calm.wait("chaos", seconds=600).values()} == {"complete"}, calm.output()

    wild = _project(tmp_path / "wild", accounted, seeds)
    _kill_the_submitter(wild, *overrides)
    for harm in CHAOS:
        time.sleep(4)
        if jobs := _jobs_at_work(wild):
            harm(wild, random.Random(f"{harm.__name__}{seeds}").choice(jobs))
    for _ in range(4):
        states = wild.wait("chaos", seconds=600)
        if all(row["state"] == "complete" for row in states.values()):
            break
        wild.harness("sweep", "chaos", *RESOURCES, *overrides)

    expected, found = calm.records("chaos"), wild.records("chaos")
    assert len(expected) == runs
    assert expected.keys() == found.keys()
    restarts = 0
    for run_id, record in found.items():
        assert record.status is Status.complete, wild.output()
        assert _numbers(record) == _numbers(expected[run_id])
        for file in ("decisions.parquet", "per_category.parquet"):
            one, other = (project.runs / run_id / file for project in (calm, wild))
            assert one.exists() == other.exists()
            if one.exists():
                assert one.read_bytes() == other.read_bytes(), file
        claims = [json.loads(path.read_text()) for path in (wild.runs / run_id / "claim").glob("*/owner.json")]
        assert max(claim["taken"] for claim in claims) < (record.ended or 0.0), "begun again after it was complete"
        restarts += len(claims) - 1
    assert restarts >= runs // 3, "there was no chaos"
