"""SLURM's commands, and questions of a process about its own job.

Jobs are named as SLURM's users name them: `123`, and `123_4` for an element of an array. (An element's SLURM_JOB_ID is
no such name: that of one element is the array's own id, and scontrol or squeue would take it for the whole array.)
No answer is never taken for "no such job".
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TIMEOUT_SECONDS = 60.0
# Read by SLURM's commands as if they were flags: they would hide jobs from the one who asks.
_FLAGS_FROM_OUTSIDE = ("SQUEUE_", "SACCT_", "SCANCEL_")
# What says which cluster and who asks; everything else that begins with SLURM_ describes an allocation.
_NO_ALLOCATION = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
_OF_AN_ALLOCATION = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Answer:
    """The answer of one of SLURM's commands. silence: why there is no valid answer; empty if there is one."""

    text: str = ""
    words: str = ""  # on stderr
    silence: str = ""


def ask(*command: str) -> Answer:
    """Runs one of SLURM's commands. A failure, a time-out and a missing program are a silence, with the reason."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_FLAGS_FROM_OUTSIDE)}
    environment["SLURM_BITSTR_LEN"] = "0"  # array elements are listed in full, not cut after 64 characters
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment)
    except FileNotFoundError:
        return Answer(silence=f"there is no {command[0]} on this machine")
    except subprocess.TimeoutExpired:
        return Answer(silence=f"no answer from {command[0]} within {TIMEOUT_SECONDS:.0f} s")
    except OSError as error:
        return Answer(silence=f"{command[0]}: {error.strerror}")
    if done.returncode == 0:
        return Answer(done.stdout, done.stderr)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Answer(done.stdout, done.stderr, f"no answer from {command[0]}" + (f": {said[-1]}" if said else ""))


def own_job() -> str | None:
    """The job that this process runs in; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def is_active(job: str) -> bool | None:
    """Whether a job waits or runs; None when SLURM gives no answer or the job is on its way out."""
    answer = ask("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%T")
    if answer.silence:
        return False if "Invalid job id" in answer.words else None
    states = set(answer.text.split())
    return None if states == {"COMPLETING"} else bool(states)


def requeue_self() -> str:
    """Queues this process's job again, unless it is already being cancelled or requeued; returns what happened."""
    job = own_job()
    if job is None:
        return "no job of SLURM's"
    answer = ask("scontrol", "show", "job", "--oneliner", job)
    if answer.silence:
        return f"not queued again: {answer.silence}"
    if "JobState=RUNNING" not in answer.text:
        return "SLURM is already ending or requeueing the job"
    answer = ask("scontrol", "requeue", job)
    return f"not queued again: {answer.silence}" if answer.silence else f"job {job} is queued again"


def name_self(text: str) -> None:
    """Puts a run's name into the comment of this job, which elements of an array lack before they start."""
    job = own_job()
    if job is not None:
        ask("scontrol", "update", f"jobid={job}", f"comment={text}")


@contextmanager
def outside_of_allocations() -> Iterator[None]:
    """Hides the allocation of this process, so that processes started from here get their own, or none.

    sbatch would hand its variables on, and srun refuse them; local runs would take themselves for ranks of the outer
    job, and queue that again when they are stopped.
    """
    hidden = {
        key: os.environ.pop(key)
        for key in list(os.environ)
        if (key.startswith(_OF_AN_ALLOCATION) and key not in _NO_ALLOCATION) or key in _OF_TORCHRUN
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
