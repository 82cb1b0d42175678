"""One look at SLURM: squeue for what waits, runs or has just ended, sacct for what ended earlier, scancel.

A look is taken once and passed along: what is decided and what is shown rest on the same answer. It can say that there
was none; that is never taken for "no such job".
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import UserError
from harness.record.manifest import Submission
from harness.run.scheduler import ask

# States of jobs that will still do something; all others are ends.
ACTIVE = (
    "PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "SPECIAL_EXIT", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job as SLURM shows it. reason: why it waits, the nodes it runs on, or its exit code. node: where it ran."""

    job_id: str
    name: str
    state: str
    reason: str = ""
    node: str = ""


@dataclass(frozen=True)
class Look:
    """SLURM's answer. jobs: by id, those that wait or run. gone: those that squeue still shows after their end.

    silence: why there is no answer; empty if there is one. hides: squeue shows users their own jobs alone, so that
    it says nothing about others'.
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    gone: Mapping[str, Job] = field(default_factory=dict)
    silence: str = ""
    hides: bool = False
    _accounts: dict[frozenset[str], dict[str, Job] | None] = field(default_factory=dict, compare=False, repr=False)

    def ended(self, jobs: Iterable[str]) -> dict[str, Job] | None:
        """What accounting says of these jobs, asked once for the same ones; None if it gives no answer."""
        key = frozenset(jobs)
        if key not in self._accounts:
            self._accounts[key] = ended(key)
        return self._accounts[key]

    def named(self, name: str) -> list[Job]:
        """Jobs of a name, elements of an array in their order."""
        return sorted((job for job in self.jobs.values() if job.name == name), key=lambda job: element(job.job_id))

    def required(self) -> Look:
        """Itself. Raises UserError when there was no answer: nothing may be submitted on a guess."""
        if self.silence:
            raise UserError(f"{self.silence}; is this machine part of the cluster, and is the controller up?")
        return self


NOTHING_ASKED = Look()


def look(submissions: Iterable[Submission]) -> Look:
    """Asks once about all jobs of those who made these submissions; an empty answer without SLURM's among them."""
    users = {s.user or getpass.getuser() for s in submissions if s.launcher == "slurm"}
    jobs: dict[str, Job] = {}
    gone: dict[str, Job] = {}
    for user in sorted(users):  # the controller looks up one user's jobs; for several it would send everybody's
        answer = ask("squeue", "--noheader", "--array", "--states=all", f"--user={user}", "--format=%i|%T|%N|%r|%R|%j")
        if "Invalid user" in answer.words:
            continue  # somebody who has left: nothing of theirs is queued
        if answer.silence:
            return Look(silence=answer.silence)
        for line in answer.text.splitlines():
            job_id, state, node, reason, place, name = line.split("|", 5)
            job = Job(job_id, name, state, reason if state == "PENDING" else place.strip("()"), node)
            (jobs if state in ACTIVE else gone)[job_id] = job
    hides = bool(users - {getpass.getuser()}) and _hides_others()
    return Look(jobs, gone, hides=hides)


def ended(jobs: Iterable[str]) -> dict[str, Job] | None:
    """What accounting knows of jobs that have ended, by id; None if it gives no answer or keeps no accounts.

    A job of which a step ended for want of memory counts as ended by that, whatever the job itself is said to be.
    """
    found: dict[str, Job] = {}
    wanted = set(jobs)
    for some in _chunks(sorted({job.partition("_")[0] for job in wanted}), 200):
        answer = ask(
            "sacct", "--noheader", "--parsable2", f"--jobs={','.join(some)}",
            "--format=JobID,JobName,State,ExitCode,NodeList",
        )  # fmt: skip
        if answer.silence:
            return None
        for line in answer.text.splitlines():
            job_id, name, state, code, nodes = line.split("|", 4)
            job_id, _, step = job_id.partition(".")
            state = state.partition(" ")[0]
            for one in elements(job_id):
                if not step:
                    found[one] = Job(one, name, state, f"exit code {code}", nodes)
                elif state == "OUT_OF_MEMORY" and one in found:
                    found[one] = Job(one, found[one].name, state, found[one].reason, nodes)
    return {job_id: job for job_id, job in found.items() if job_id in wanted}


def elements(job_id: str) -> Iterator[str]:
    """The jobs that SLURM means by `123`, `123_4` or `123_[0-3,7%4]`."""
    array, bracket, indices = job_id.partition("_[")
    if not bracket:
        yield job_id
        return
    for part in indices.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        for index in range(int(first), int(last or first) + 1):
            yield f"{array}_{index}"


def element(job_id: str) -> int:
    """A job's place in its array; 0 for one that is in none."""
    return int(job_id.partition("_")[2] or 0)


def largest_array() -> int:
    """The most elements that a job array may have here."""
    answer = ask("scontrol", "show", "config")
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer.text)
    return max(1, int(found[1]) - 1) if found else 1000


def cancel(jobs: Sequence[str], look: Look) -> dict[str, str]:
    """Cancels jobs; returns those that are not known to be cancelled, with SLURM's words or why there are none.

    Ones that have ended meanwhile are no refusal. An array that is meant as a whole is cancelled as one.
    """
    refused: dict[str, str] = {}
    for some in _chunks(_as_arrays(jobs, look), 500):
        answer = ask("scancel", *some)
        words = re.findall(r"error on job id (\S+): (.*)", answer.words)
        if answer.silence and not words:
            meant = {one for name in some for one in elements(name)}
            refused |= {job: answer.silence for job in jobs if job in meant or _array(job) in meant}
        for job_id, word in words:
            if "Invalid job id" not in word and "already complet" not in word:
                refused |= {job: word for job in jobs if job in (job_id, *elements(job_id)) or _array(job) == job_id}
    return refused


def _as_arrays(jobs: Sequence[str], look: Look) -> list[str]:
    """The fewest names for these jobs: an array's own where no other element of it waits or runs."""
    others = {_array(job_id) for job_id in look.jobs.keys() - set(jobs)}
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        arrays.setdefault(_array(job), []).append(job)
    names = []
    for array, own in arrays.items():
        if own == [array] or (array not in others and not look.silence):
            names.append(array)
        else:
            names.append(f"{array}_[{','.join(sorted((job.partition('_')[2] for job in own), key=int))}]")
    return names


def _array(job_id: str) -> str:
    return job_id.partition("_")[0]


def _hides_others() -> bool:
    answer = ask("scontrol", "show", "config")
    private = re.search(r"PrivateData\s*=\s*(\S+)", answer.text)
    return bool(answer.silence) or (private is not None and "jobs" in private[1].split(","))


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
