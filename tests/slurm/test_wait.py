"""Limits on jobs, topping up, trying again by cause, and staying with a sweep until it has ended."""

from __future__ import annotations

import getpass
from collections.abc import Iterator

import pytest

from harness.record.manifest import read_manifest
from tests.slurm.project import RESOURCES, Project

FOUR = "grid: {method: baseline, schedule.iterations: 2, seed: [0, 1, 2, 3]}\n"
HELD = "+launcher.sbatch.hold=true"
# Asks for as much memory as it first finds it was not given, and is content when it is tried again.
HUNGRY = '''
import os, time
from dataclasses import dataclass
from methods import register
from methods.contract import Method


@register("hungry")
@dataclass
class Hungry(Method):
    """Takes more memory than it was given the first time."""

    def select(self, step):
        if int(os.environ["SLURM_MEM_PER_NODE"]) < 2000:
            self.kept = bytearray(b"x") * (2 << 30)
            time.sleep(60)
        return super().select(step)
'''


@pytest.fixture
def limited(project: Project) -> Iterator[Project]:
    """Where an account may have three jobs at most."""
    user = ["user", f"name={getpass.getuser()}"]
    project.cluster.command("sacctmgr", "--immediate", "modify", *user, "set", "maxsubmitjobs=3")
    yield project
    project.cluster.command("sacctmgr", "--immediate", "modify", *user, "set", "maxsubmitjobs=-1")


def test_limit_on_submitted_jobs_splits_arrays_and_is_told(limited: Project) -> None:
    limited.write_sweep("four", FOUR)
    printed = limited.sweep("four", HELD, code=3)
    assert "3 of 4 runs submitted, 1 not: sbatch: error: " in printed
    assert "not submitted" in printed
    states = [row["state"] for row in limited.states("four").values()]
    assert sorted(states) == ["missing", "pending", "pending", "pending"]
    assert len(limited.job_names()) == 3
    limited.harness("status", "four", code=3)


@pytest.mark.slow
def test_waiting_tops_up_under_both_limits(limited: Project) -> None:
    limited.write_sweep("four", FOUR)
    note = limited.folder / "note.txt"
    words = ("launcher.jobs=2", "--wait", "--notify", f"cat >> {note}")
    staying = limited.start("sweep", "four", *RESOURCES, *words)
    most = 0
    while staying.poll() is None:
        most = max(most, len(limited.job_names()))
    printed, _ = staying.communicate()
    assert staying.returncode == 0, printed
    assert most == 2, "a job that is just ending counts no more"
    assert {row["state"] for row in limited.states("four").values()} == {"complete"}, printed
    assert note.read_text() == "four: 4 runs: 4 complete\n"


@pytest.mark.slow
def test_want_of_memory_is_cured_once_and_python_errors_are_not(project: Project) -> None:
    (project.folder / "hungry.py").write_text(HUNGRY)
    broken = HUNGRY.replace("hungry", "broken").replace("Hungry", "Broken")
    broken = broken.replace("if int", "raise ValueError\n        if int")
    (project.folder / "broken.py").write_text(broken)
    project.write_sweep(
        "two",
        """
grid:
  - {method: hungry, method_paths: '[hungry.py]', schedule.iterations: 2}
  - {method: broken, method_paths: '[broken.py]', schedule.iterations: 2}
""",
    )
    words = ("launcher.memory_gb=1.5", "launcher.retries=1", "--wait")
    printed = project.sweep("two", *words, code=1)
    states = {row["name"]: row["state"] for row in project.states("two").values()}
    assert states == {"hungry": "complete", "broken": "failed"}, printed
    manifest = read_manifest(project.runs, "two")
    assert manifest is not None
    assert {run.name: (run.retried, run.resources["memory_gb"]) for run in manifest.runs} == {
        "hungry": (1, 3.0),
        "broken": (0, 1.5),
    }
