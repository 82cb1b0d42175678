"""How runs end on a bad day, and what is said of it: memory, clocks, lost ranks, early signals, scancel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness.record.record import Status, read_record
from harness.run import claim
from tests.slurm.project import Project

FOUR = "grid: {method: baseline, schedule.iterations: 4, seed: [0, 1, 2, 3]}\n"
HELD = "+launcher.sbatch.hold=true"
GREEDY = '''
import time
from dataclasses import dataclass
from methods import register
from methods.contract import Method


@register("greedy")
@dataclass
class Greedy(Method):
    """Takes more memory than it was given."""

    def select(self, step):
        self.kept = bytearray(b"x") * (2 << 30)
        time.sleep(60)
'''
PLUGIN_SWEEP = "grid: {{method: {name}, method_paths: '[{name}.py]', schedule.iterations: 4}}\n"
BREAKS = (
    GREEDY.replace("greedy", "breaks")
    .replace("Greedy", "Breaks")
    .replace(
        'self.kept = bytearray(b"x") * (2 << 30)\n        time.sleep(60)', 'raise RuntimeError("the method is broken")'
    )
)


def test_killed_for_memory_is_said_and_retried_with_more(project: Project) -> None:
    (project.folder / "greedy.py").write_text(GREEDY)
    project.write_sweep("one", PLUGIN_SWEEP.format(name="greedy"))
    project.sweep("one", "launcher.memory_gb=1.5")
    (row,) = project.wait("one").values()
    assert (row["state"], row["failure_kind"]) == ("failed", "out of memory"), (row, project.output())
    project.harness("status", "one", code=1)
    assert "exceeded memory limit" in project.harness("logs", "one").lower()
    words = ("status=failed", "launcher.memory_gb=2", HELD, "--trust", "greedy.py")
    assert "submitted" in project.harness("retry", "one", *words)


@pytest.mark.parametrize("accounted_for", [True, False])
def test_scancel_before_the_start(project: Project, accounted_for: bool) -> None:
    project.write_sweep("four", FOUR)
    project.sweep("four", HELD)
    array = project.states("four")[project.run("four").run_id]["job"].partition("_")[0]
    project.cluster.command("scancel", f"{array}_1")
    if not accounted_for:
        project.silence("sacct")
    states = {row["axes"]["seed"]: row for row in project.states("four").values()}
    assert [states[seed]["state"] for seed in "0123"] == ["pending", "cancelled", "pending", "pending"]
    project.cluster.command("scancel", array)
    project.cluster.wait_for(lambda: not project.job_names())
    rows = project.states("four").values()
    assert {(row["state"], row["reason"]) for row in rows} == {("cancelled", "cancelled by scancel")}
    project.harness("status", "four", code=3)


def test_clock_behind_changes_no_word(project: Project) -> None:
    """Ten minutes behind, a node's record is older than the submission; the job's name tells whose it is."""
    clock = project.folder / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 600\n")
    (project.folder / "breaks.py").write_text(BREAKS)
    project.write_sweep(
        "two",
        """
grid:
  - {name: broken, method: breaks, method_paths: '[breaks.py]', schedule.iterations: 4}
  - {name: child, method: baseline, schedule: mini_continue, schedule.iterations: 4}
after:
  - {when: {name: child}, init_from: {name: broken}}
""",
    )
    project.sweep("two", f'launcher.setup=["export PYTHONPATH={clock}:$PYTHONPATH"]')
    states = {row["name"]: row for row in project.wait("two").values()}
    assert states["broken"]["state"] == "failed", states
    assert states["broken"]["failure_kind"] == "python error"
    assert states["child"]["state"] == "waiting"


@pytest.mark.parametrize("number", ["TERM", "USR2"])
def test_signal_in_the_first_seconds_is_held(project: Project, number: str) -> None:
    """Signals come from the step's start on; the run hears them once it listens, saves and queues itself again."""
    project.write_sweep("one", "grid: {method: baseline, schedule.iterations: 8}\n")
    project.sweep("one")
    run = project.run("one")
    job = project.states("one")[run.run_id]["job"]
    project.cluster.wait_for(lambda: f"{job}.0" in project.cluster.command("squeue", "--steps", "--noheader"))
    for _ in range(8):
        project.cluster.command("scancel", f"--signal={number}", job, check=False)
        time.sleep(0.1)
    (row,) = project.wait("one").values()
    assert row["state"] == "complete", project.output()
    record = read_record(project.runs, run.run_id)
    assert record is not None
    assert record.provenance["restarts"] >= 1, "it was told to stop, and did"
    # A signal that comes before anything is held back ends the job before it has claimed the run.
    if len(list((project.runs / run.run_id / "claim").iterdir())) >= 2:
        assert f"stopped by SIG{number}" in (project.runs / run.run_id / "log.txt").read_text()
        assert "is queued again" in (project.runs / run.run_id / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_lost_rank_queues_the_run_again(project: Project, victim: int) -> None:
    project.write_sweep("ranks", "grid: {method: baseline, schedule.iterations: 100}\n")
    address = 'launcher.setup=["export MASTER_ADDR=127.0.0.1"]'
    project.sweep("ranks", "schedule.global_batch=4", "launcher.cpus=1", address)
    run = project.run("ranks")
    folder = project.runs / run.run_id
    project.cluster.wait_for(lambda: len(list(folder.glob("checkpoint/0*"))) > 0, 120)
    # What is known of a life that ends without a word is counted in heartbeats.
    project.cluster.wait_for(lambda: any(int(path.read_text() or 0) for path in folder.glob("claim/*/heartbeat")), 60)
    os.kill(_rank(run.run_id, victim, project), signal.SIGKILL)
    project.cluster.wait_for(lambda: len(list((folder / "claim").iterdir())) == 2, 120)
    (row,) = project.wait("ranks").values()
    assert row["state"] == "complete", project.output()
    assert "another rank was lost" in (folder / "log.txt").read_text()
    record = read_record(project.runs, run.run_id)
    assert record is not None
    lives = claim.lives(folder)
    assert len(lives) == record.cost["starts"] == 2
    assert record.cost["wall_seconds"] > lives[0].seconds > 0
    assert record.cost["allocated_seconds"] > record.cost["wall_seconds"] + 1


def test_error_of_another_rank_is_told(project: Project) -> None:
    only_one = BREAKS.replace("raise", 'import os\n        if os.environ["SLURM_PROCID"] == "1": raise')
    (project.folder / "breaks.py").write_text(only_one)
    project.write_sweep("one", PLUGIN_SWEEP.format(name="breaks"))
    address = 'launcher.setup=["export MASTER_ADDR=127.0.0.1"]'
    project.sweep("one", "schedule.global_batch=4", "launcher.cpus=1", address)
    (row,) = project.wait("one").values()
    assert row["state"] == "failed", row
    assert "the method is broken" in row["reason"], row
    record = read_record(project.runs, row["run_id"])
    assert record is not None
    assert record.status is Status.failed
    # SLURM may kill rank 0 while it ends, and the job is queued again by that status.
    project.cluster.command("scontrol", "requeue", row["job"])
    project.cluster.wait_for(lambda: not project.job_names())
    assert read_record(project.runs, row["run_id"]) == record


def _rank(run_id: str, rank: int, project: Project) -> int:
    """The process of a rank of a run, by its environment."""
    job = project.states("ranks")[run_id]["job"]
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = (place / "environ").read_bytes().split(b"\0")
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue
        own = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()} <= set(variables)
        if own and b"submitit.core._submit" in words and b"srun" not in words.split(b"\0")[0]:
            return int(place.name)
    raise AssertionError(json.dumps(project.states("ranks")))


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_full_disk_is_said_and_retried(project: Project) -> None:
    project.runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", project.runs], check=True)
    try:
        project.write_sweep("one", "grid: {method: baseline, schedule.iterations: 8}\n")
        project.sweep("one", HELD)
        run = project.run("one")
        job = project.states("one")[run.run_id]["job"]
        manifest = project.runs / "sweeps" / "one" / "manifest.json"
        before = manifest.read_bytes()
        filler = project.runs / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        said = project.harness("change", "one", "launcher.minutes=44", code=1)
        assert "the manifest of sweep one was not" in said
        assert "No space left on device" in said
        assert manifest.read_bytes() == before
        os.truncate(filler, 7 << 20)
        assert "changed 1 waiting jobs" in project.harness("change", "one", "launcher.minutes=44")
        assert project.run("one").resources["minutes"] == 44
        project.cluster.command("scontrol", "release", job)
        (row,) = project.wait("one").values()
        assert row["state"] == "failed", (row, project.output())
        assert row["failure_kind"] == "no space left"
        assert "no space" in row["reason"]
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=200m", project.runs], check=True)
        project.harness("retry", "one", "status=failed")
        project.cluster.command("scontrol", "release", project.states("one")[run.run_id]["job"])
        assert project.wait("one")[run.run_id]["state"] == "complete", project.output()
    finally:
        project.cluster.command("scancel", "--user=root", check=False)
        subprocess.run(["umount", "--lazy", project.runs], check=True)
