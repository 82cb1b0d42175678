"""A scheduler that gives no answer, a late one or a refusal: nothing is submitted on a guess, nothing is said wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.slurm.project import RESOURCES, ROOT, Project

HELD = "+launcher.sbatch.hold=true"
FOUR = "grid: {method: baseline, schedule.iterations: 4, seed: [0, 1, 2, 3]}\n"
FAILS = 'echo "slurm_load_jobs error: Socket timed out on send/recv operation" >&2; exit 1'
FIRST_FAILS = f"if mkdir $0.once 2>/dev/null; then {FAILS}; fi\nreal"


@pytest.fixture
def held(project: Project) -> Project:
    """With four runs in the queue that do not start."""
    project.write_sweep("four", FOUR)
    project.sweep("four", HELD)
    assert len(project.job_names()) == 4
    return project


@pytest.mark.parametrize("words", [("sweep", "four", "launcher=slurm"), ("retry", "four")])
def test_no_first_answer_submits_nothing(held: Project, words: tuple[str, ...]) -> None:
    """The second answer would come: one look decides, and says that it saw nothing."""
    held.shim("squeue", f'{FIRST_FAILS} "$@"')
    printed = held.harness(*words, code=1)
    assert "Socket timed out" in printed
    assert len(held.job_names()) == 4
    assert "skipped: pending" in held.harness("sweep", "four", "launcher=slurm"), "the next one has its answer"
    assert len(held.job_names()) == 4


@pytest.mark.parametrize("script", [FAILS, None])
def test_status_without_an_answer_is_unknown(held: Project, script: str | None) -> None:
    if script:
        held.shim("squeue", script)
        reason = "Socket timed out"
    else:  # a machine that is not of the cluster
        held.shim("squeue", "exit 127")
        reason = "no answer from squeue"
    rows = json.loads(held.harness("status", "four", "--json", code=69))
    assert {row["state"] for row in rows} == {"unknown"}
    assert all(reason in row["reason"] for row in rows)


def test_watching_goes_on_when_the_controller_is_away(held: Project) -> None:
    held.silence("squeue")
    watching = held.start("status", "four", "--watch")
    with pytest.raises(subprocess.TimeoutExpired):
        watching.communicate(timeout=7)  # the second look is after five seconds
    held.unshim()
    held.harness("cancel", "four")
    printed, _ = watching.communicate(timeout=60)
    assert watching.returncode == 3, printed


def test_cancelling_without_an_answer_is_no_cancelling(held: Project) -> None:
    held.silence("scancel")
    assert "Unable to contact" in held.harness("cancel", "four", code=1)
    assert len(held.job_names()) == 4
    assert not list(held.runs.glob("*/cancelled")), "no marker that would end a later life unqueued"
    held.silence("scancel", "squeue")
    assert "cancelled 0 runs" in held.harness("cancel", "four", code=1)
    assert not list(held.runs.glob("*/cancelled"))
    held.unshim()
    held.silence("squeue")
    assert "cancelled 4 runs" in held.harness("cancel", "four"), "scancel answers, which is enough"
    assert held.job_names() == []


def test_refused_cancelling_is_told(held: Project) -> None:
    held.shim("scancel", f'exec setpriv --reuid=65534 --clear-groups -- {_scancel(held)} "$@"')
    printed = held.harness("cancel", "four", code=1)
    assert "cancelled 0 runs" in printed
    assert "not cancelled: 4 runs (" in printed
    assert "denied" in printed
    assert not list(held.runs.glob("*/cancelled"))
    assert len(held.job_names()) == 4


def test_whole_arrays_are_cancelled_as_one(held: Project) -> None:
    log = held.folder / "scancel.log"
    held.shim("scancel", f'echo "$@" >> {log}; real "$@"')
    held.harness("cancel", "four", "seed=1,3")
    held.harness("cancel", "four")
    first, second = log.read_text().splitlines()
    array = first.partition("_")[0]
    assert first == f"{array}_[1,3]"
    assert second == array
    assert {row["state"] for row in held.states("four").values()} == {"cancelled"}


@pytest.mark.parametrize("runs", [1, 2])
def test_sbatch_without_an_answer_is_found_by_name(project: Project, runs: int) -> None:
    """The jobs were accepted, and get the instructions that submitit puts in place after sbatch."""
    project.write_sweep("four", FOUR)
    project.shim("sbatch", f'real "$@" > /dev/null; {FAILS.replace("slurm_load_jobs", "sbatch:")}')
    project.sweep("four", f"seed={','.join(map(str, range(runs)))}")
    assert len(project.job_names()) == runs
    states = project.wait("four")
    assert {row["state"] for row in states.values()} == {"complete"}, project.output()


def test_sbatch_without_an_answer_and_squeue_neither(project: Project) -> None:
    project.write_sweep("four", FOUR)
    late = FAILS.replace("slurm_load_jobs", "sbatch:")
    project.shim("sbatch", f'real "$@" > /dev/null; touch {project.folder}/sent; {late}')
    project.shim("squeue", f'if [ -e {project.folder}/sent ]; then {FAILS}; fi; real "$@"')
    printed = project.sweep("four", HELD, code=1)
    assert "is unknown" in printed
    rows = json.loads(project.harness("status", "four", "--json", code=69))
    assert {row["state"] for row in rows} == {"unknown"}
    project.unshim()
    assert {row["state"] for row in project.states("four").values()} == {"pending"}, "never missing meanwhile"
    assert "found four-" in project.sweep("four", HELD)
    assert len(project.job_names()) == 4


def test_refused_submission_is_counted_and_said_once(project: Project) -> None:
    project.write_sweep("four", FOUR)
    printed = project.sweep("four", "launcher.partition=nowhere", code=1)
    assert printed.count("invalid partition specified") == 1
    assert "0 of 4 runs submitted, 4 not" in printed
    assert {row["state"] for row in project.states("four").values()} == {"missing"}


def test_an_allocation_around_the_submitter_is_not_handed_on(project: Project) -> None:
    project.write_sweep("four", FOUR)
    inside = {"SLURM_MEM_PER_CPU": "100", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "1"}
    command = [sys.executable, "-m", "harness.cli", "sweep", "four", *RESOURCES, "seed=0"]
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment | inside, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = project.wait("four").values()
    assert row["state"] == "complete", project.output()


def test_local_sweep_takes_no_notice_of_the_job_around_it(project: Project) -> None:
    """Its run is no rank of the three, and stopping it queues nothing again."""
    project.write_sweep("four", "grid: {method: baseline, schedule.iterations: 100000}\n")
    script = project.folder / "script.sh"
    command = f"{sys.executable} -m harness.cli sweep four"
    script.write_text(f"#!/bin/bash\ncd {project.folder}\n{command}\necho ended with $?\nsleep 30\n")
    words = ["--parsable", "--ntasks=3", "--cpus-per-task=1", "--mem=3G", "--requeue", f"--output={project.folder}/out"]
    exported = f"--export=ALL,PYTHONPATH={ROOT},OMP_NUM_THREADS=1,BSGAL_BENCH_CACHE={os.environ['BSGAL_BENCH_CACHE']}"
    job = project.cluster.command("sbatch", *words, exported, str(script)).strip()
    project.cluster.wait_for(lambda: list(project.runs.glob("*/checkpoint/0*")), 120)
    (row,) = project.states("four").values()
    assert row["state"] == "running"
    project.harness("cancel", "four")
    project.cluster.wait_for(lambda: "ended with" in (project.folder / "out").read_text())
    assert "ended with 3" in (project.folder / "out").read_text(), "it was cancelled"
    shown = project.cluster.command("scontrol", "show", "job", job)
    assert "JobState=RUNNING" in shown
    assert "Restarts=0" in shown
    project.cluster.command("scancel", job)


def test_following_logs_asks_seldom(held: Project) -> None:
    log = held.folder / "squeue.log"
    held.shim("squeue", f'echo "$@" >> {log}; real "$@"')
    run = held.runs / held.run("four").run_id
    run.mkdir()
    (run / "log.txt").write_text("the first line\n")
    following = held.start("logs", held.run("four").run_id, "-f")
    held.cluster.wait_for(
        lambda: log.exists() and len(log.read_text().splitlines()) == 2
    )  # once for the end of the logs
    with (run / "log.txt").open("a") as file:
        file.write("the second line\n")
    with pytest.raises(subprocess.TimeoutExpired):
        following.communicate(timeout=12)
    following.send_signal(signal.SIGINT)
    printed, _ = following.communicate(timeout=90)
    assert "the first line\nthe second line\n" in printed
    asked = log.read_text().splitlines()
    assert len(asked) <= 4
    assert all("--user=" in words for words in asked), "not about everybody's jobs"


def _scancel(project: Project) -> str:
    found = shutil.which("scancel", path=project.cluster.environment["PATH"])
    assert found is not None
    return found
