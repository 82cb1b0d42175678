"""Why a run's job has ended, from accounting, from what SLURM wrote into its output, and from its exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.launch.queue import Job
from harness.launch.resources import STARTED
from harness.record.manifest import Submission
from harness.record.record import FailureKind

# SLURM's word -> ours, and what to do about it.
_ENDS = {
    "OUT_OF_MEMORY": (FailureKind.out_of_memory, "killed for exceeding its memory; raise launcher.memory_gb"),
    "TIMEOUT": (FailureKind.timeout, "killed at its time limit before it could save; raise launcher.minutes"),
    "DEADLINE": (FailureKind.timeout, "killed at its deadline"),
    "NODE_FAIL": (FailureKind.node_failure, "its node failed"),
    "BOOT_FAIL": (FailureKind.node_failure, "its node failed to boot"),
    "PREEMPTED": (FailureKind.cancelled, "preempted and not queued again"),
    "CANCELLED": (FailureKind.cancelled, "cancelled by scancel"),
    "NO_SPACE": (FailureKind.no_space, "no space left on its disk or in its quota"),
}
# What SLURM writes last into a killed job's output. Memory comes first: the step that it ended is then cancelled, with
# a line of its own.
_LAST_WORDS = {
    "oom_kill": "OUT_OF_MEMORY",
    "oom-kill": "OUT_OF_MEMORY",
    "Out Of Memory": "OUT_OF_MEMORY",
    "exceeded memory limit": "OUT_OF_MEMORY",
    "Exceeded job memory limit": "OUT_OF_MEMORY",
    "DUE TO TIME LIMIT": "TIMEOUT",
    "DUE TO NODE FAILURE": "NODE_FAIL",
    "DUE TO PREEMPTION": "PREEMPTED",
    "*** JOB": "CANCELLED",
}
_NO_SPACE = ("No space left on device", "Disk quota exceeded")
# A line of SLURM's own in a job's output.
SCHEDULER_LINE = re.compile(r"^(slurmstepd|slurmd|srun|sbatch|scontrol)[\w.-]*: ")
_TAIL_BYTES = 8000


def ending(submission: Submission | None, job: str | None, accounted: Job | None) -> tuple[FailureKind, str] | None:
    """The kind and message for a job that its run did not end itself; None if that is not known."""
    lines = list(last_lines(submission, job)) if submission is not None and job is not None else []
    of_slurm = [line for line in lines if SCHEDULER_LINE.match(line)]
    spoken = [word for text, word in _LAST_WORDS.items() if any(text in line for line in of_slurm)]
    spoken += ["NO_SPACE"] if any(words in line for words in _NO_SPACE for line in lines) else []
    # A job that is killed for memory may count as failed or cancelled: what SLURM wrote is nearer to the cause.
    words = [*(word for word in spoken if word == "OUT_OF_MEMORY"), accounted.state if accounted else "", *spoken]
    return next((_ENDS[word] for word in words if word in _ENDS), None)


def last_lines(submission: Submission, job: str) -> Iterator[str]:
    """What SLURM and the job wrote to stderr since the job's last start, of all ranks; the end of it."""
    for path in sorted(Path(submission.folder).glob(f"{job}_*_log.err")):
        if not path.is_file():
            continue  # a pipe, say, that would be waited for
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        starts = [number for number, line in enumerate(lines) if line.startswith(STARTED)]
        yield from lines[starts[-1] :] if starts else lines[-8:]


def exit_code(accounted: Job | None) -> int | None:
    """A job's exit code as in a shell: 128 plus the number of the signal that killed it; None if unknown."""
    found = re.search(r"(\d+):(\d+)$", accounted.reason) if accounted else None
    if found is None:
        return None
    code, number = int(found[1]), int(found[2])
    return 128 + number if number else code
