"""Asking SLURM: squeue for what is alive, sacct for what has ended, where the cluster keeps accounts."""

from __future__ import annotations

import subprocess

# What squeue answers within; a controller that is restarting is "no answer", never "no such job".
TIMEOUT_SECONDS = 30.0


def is_active(job: str) -> bool | None:
    """Whether a job waits or runs; None when the scheduler gives no answer or the job is on its way out."""
    answer = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    if answer is None:
        return None
    if answer.returncode != 0:
        return False if "Invalid job id" in answer.stderr else None
    states = set(answer.stdout.split())
    return None if states == {"COMPLETING"} else bool(states)


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
