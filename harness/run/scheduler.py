"""Asking SLURM: squeue for what waits and runs, sacct for what has ended, where the cluster keeps accounts.

Jobs are named as SLURM's users name them: `123`, and `123_4` for an element of an array. (An element's SLURM_JOB_ID is
no such name: that of one element is the array's own id, and scontrol or squeue would take it for the whole array.)
No answer is never taken for "no such job".
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import UserError

TIMEOUT_SECONDS = 60.0
ACTIVE = ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "REQUEUED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class Job:
    """A job as SLURM shows it. reason: why it waits, or the nodes it runs on."""

    job_id: str
    name: str
    state: str
    reason: str = ""


def own_job() -> str | None:
    """The job that this process runs in; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def is_active(job: str) -> bool | None:
    """Whether a job waits or runs; None when SLURM gives no answer or the job is on its way out."""
    answer = _ask("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%T")
    if answer is None:
        return None
    if answer.returncode != 0:
        return False if "Invalid job id" in answer.stderr else None
    states = set(answer.stdout.split())
    return None if states == {"COMPLETING"} else bool(states)


def queued(names: Iterable[str]) -> dict[str, Job] | None:
    """Jobs that wait or run, by id, of all submissions with these job names; None when SLURM gives no answer."""
    found: dict[str, Job] = {}
    for some in _chunks(sorted(set(names)), 200):
        answer = _ask("squeue", "--noheader", "--array", f"--name={','.join(some)}", "--format=%i|%j|%T|%R")
        if answer is None or answer.returncode != 0:
            return None
        for line in answer.stdout.splitlines():
            job_id, name, state, reason = line.split("|", 3)
            found[job_id] = Job(job_id, name, state, reason.strip("()"))
    return found


def ended(jobs: Iterable[str]) -> dict[str, Job]:
    """What accounting knows of jobs that have ended, by id; empty where the cluster keeps no accounts."""
    found: dict[str, Job] = {}
    parents = sorted({job.partition("_")[0] for job in jobs})
    for some in _chunks(parents, 200):
        answer = _ask(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(some)}",
            "--format=JobID,JobName,State,ExitCode",
        )  # fmt: skip
        if answer is None or answer.returncode != 0:
            return found
        for line in answer.stdout.splitlines():
            job_id, name, state, code = line.split("|", 3)
            found[job_id] = Job(job_id, name, state.partition(" ")[0], f"exit code {code}")
    return found


def largest_array() -> int:
    """The most elements that a job array may have here."""
    answer = _ask("scontrol", "show", "config")
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer.stdout) if answer else None
    return max(1, int(found[1]) - 1) if found else 1000


def cancel(jobs: Sequence[str]) -> None:
    """Cancels jobs, those that have ended meanwhile included. Raises UserError when SLURM gives no answer."""
    for some in _chunks(list(jobs), 500):
        answer = _ask("scancel", *some)
        if answer is None:
            raise UserError("scancel gives no answer; is this a machine of the cluster, and is its controller up?")


def requeue_self() -> bool:
    """Queues the own job again, unless it is being cancelled or requeued already; whether it was needed."""
    job = own_job()
    if job is None:
        return False
    answer = _ask("scontrol", "show", "job", "--oneliner", job)
    if answer is None or "JobState=RUNNING" not in answer.stdout:
        return False
    answer = _ask("scontrol", "requeue", job)
    return answer is not None and answer.returncode == 0


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
