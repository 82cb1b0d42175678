"""Handing runs to SLURM through submitit: job arrays, dependencies, and finding again what a dead submitter left."""

from __future__ import annotations

import contextlib
import getpass
import io
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from harness.errors import UserError
from harness.launch import job, pack, queue
from harness.launch.private import is_private, private_folder
from harness.launch.queue import Look
from harness.launch.resources import python_command, runs_a_job, sbatch_parameters, script_parameters
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.run.scheduler import outside_of_allocations

# sbatch's words for a submission that may come through when fewer jobs are in the queue.
_LIMITS = ("SubmitJob", "job submit limit", "MaxJobCount", "temporarily unable to accept job")
# Words for no answer, after which the job may be there or not.
_LOST = ("Socket timed out", "Unable to contact", "Zero Bytes", "Transport endpoint", "timed out", "Connection re")
# How often, and how many seconds apart, squeue is asked about a job whose sbatch had no answer.
LOOKS, SECONDS_APART = 4, 2.0


class _LimitReached(Exception):
    """SLURM accepts no more jobs for now."""


@dataclass
class Array:
    """Runs that are submitted together, with equal resources.

    after_jobs: jobs under way that all of them wait for. after_arrays: arrays submitted before, of which each run waits
    for the element of its own place alone. after_runs: runs submitted before that all of them wait for.
    """

    submission: Submission
    runs: list[ExpectedRun] = field(default_factory=list)
    after_jobs: list[str] = field(default_factory=list)
    after_arrays: list[Array] = field(default_factory=list)
    after_runs: list[str] = field(default_factory=list)

    def dependency(self, jobs: Mapping[str, str]) -> str | None:
        """sbatch's words for it, once `jobs` holds those of the runs that were submitted before.

        `aftercorr` waits for success, since SLURM has no other way to wait for one element each; where the parents
        were split, are no array, or share jobs, all of them are waited for.
        """
        words = []
        parents = sorted(self.after_runs)
        if self.submission.pack == 1 < len(self.runs) and all(
            _are_elements(array, jobs) for array in self.after_arrays
        ):
            words = [f"aftercorr:{jobs[a.runs[0].run_id].partition('_')[0]}" for a in self.after_arrays]
        else:
            mine = {parent for run in self.runs for parent in run.parents}
            parents += [run.run_id for array in self.after_arrays for run in array.runs if run.run_id in mine]
        after = [*self.after_jobs, *(jobs[run_id] for run_id in parents)]
        return ",".join([*([f"afterany:{':'.join(dict.fromkeys(after))}"] if after else []), *words]) or None

    def packs(self) -> list[list[ExpectedRun]]:
        """The runs of each job."""
        size = self.submission.pack
        return [self.runs[first : first + size] for first in range(0, len(self.runs), size)]


def _are_elements(array: Array, jobs: Mapping[str, str]) -> bool:
    """Whether SLURM has an array's runs as one array, in their order."""
    own = [jobs[run.run_id].partition("_") for run in array.runs if array.submission.pack == 1]
    return len({job for job, _, _ in own}) == 1 and [place for _, _, place in own] == [str(i) for i in range(len(own))]


@dataclass
class Submitted:
    """The job of each run that was submitted; limit: SLURM's message if it accepted no more, else empty."""

    jobs: dict[str, str] = field(default_factory=dict)
    limit: str = ""


def submit(
    runs_dir: Path,
    manifest: Manifest,
    runs: Sequence[ExpectedRun],
    active: Mapping[str, str],
    report: Callable[[str], None],
) -> Submitted:
    """Submits runs, parents first. `active` holds the jobs of runs that wait or run.

    The manifest on disk names every array before the first sbatch. Where SLURM limits how many jobs may be submitted,
    arrays are split, and what it does not take is left. Raises UserError with sbatch's own words.
    """
    waiting = plan(runs_dir, manifest.sweep, runs, active)
    manifest.submissions += [array.submission for array in waiting]
    write_manifest(runs_dir, manifest)
    done = Submitted()
    try:
        while waiting:
            array = waiting[0]
            try:
                array.submission.job_ids = _sbatch(array, runs_dir, done.jobs)
            except _LimitReached as reached:
                if len(array.packs()) == 1:
                    done.limit = str(reached)
                    break
                half = (len(array.packs()) + 1) // 2 * array.submission.pack
                waiting[:1] = _split(array, half, runs_dir, manifest)
                write_manifest(runs_dir, manifest)
                continue
            waiting.pop(0)
            ids = array.submission.job_ids
            done.jobs |= dict(zip(array.submission.run_ids, ids, strict=True))
            write_manifest(runs_dir, manifest)
            jobs = f"job {ids[0]}" if len(ids) == 1 else f"jobs {ids[0]} to {ids[-1]}"
            report(f"submitted {array.submission.job_name}: {len(ids)} runs, {jobs}")
    except UserError as error:
        counted = f"{len(done.jobs)} of {len(runs)} runs submitted, {len(runs) - len(done.jobs)} not: "
        raise UserError(f"{counted if len(runs) > 1 else ''}{error}") from error
    finally:
        # Whether SLURM has the first of them may be unknown; the others were never handed over.
        never = waiting if done.limit else waiting[1:]
        manifest.submissions = [s for s in manifest.submissions if not any(s is a.submission for a in never)]
        write_manifest(runs_dir, manifest)
    return done


def plan(runs_dir: Path, sweep: str, runs: Sequence[ExpectedRun], active: Mapping[str, str]) -> list[Array]:
    """The arrays that `runs` (parents first) make: few, since every one is an sbatch.

    Runs whose parents are in the same places of the same arrays make arrays of their own beside them, in which each
    waits for its own parent; others are grouped by the parents that all of them wait for.
    """
    largest = queue.largest_array()
    places: dict[str, tuple[int, int]] = {}  # run -> (its array, its place there)
    arrays: list[Array] = []
    keys: list[tuple[Any, ...]] = []
    for run in runs:
        sbatch_parameters(run.resources)  # all of them are checked before the first one is submitted
        size = runs_a_job(run.resources)
        resources = repr(sorted(run.resources.items()))
        after_runs = sorted(parent for parent in run.parents if parent in places)
        after_jobs = sorted(active[parent] for parent in run.parents if parent in active)
        found = {places[parent] for parent in after_runs}
        beside = sorted({array for array, _ in found})
        spots = {spot for _, spot in found}
        number = None
        if len(spots) == 1 and not after_jobs:
            key = (resources, "beside", *beside)
            (spot,) = spots
            number = next((i for i, k in enumerate(keys) if k == key and len(arrays[i].runs) == spot), None)
            if number is None and spot == 0:
                number = _new_array(arrays, keys, key, _new_submission(runs_dir, sweep, size))
                arrays[number].after_arrays = [arrays[i] for i in beside]
        if number is None:
            key = (resources, "after", *after_runs, *after_jobs)
            number = next((i for i, k in enumerate(keys) if k == key and len(arrays[i].runs) < largest * size), None)
            if number is None:
                number = _new_array(arrays, keys, key, _new_submission(runs_dir, sweep, size))
                arrays[number].after_jobs, arrays[number].after_runs = after_jobs, after_runs
        places[run.run_id] = (number, len(arrays[number].runs))
        arrays[number].runs.append(run)
        arrays[number].submission.run_ids.append(run.run_id)
    return arrays


def _new_array(arrays: list[Array], keys: list[tuple[Any, ...]], key: tuple[Any, ...], submission: Submission) -> int:
    arrays.append(Array(submission))
    keys.append(key)
    return len(arrays) - 1


def reconcile(runs_dir: Path, manifest: Manifest, look: Look) -> list[str]:
    """Settles the submissions whose submitter died, or had no answer, before it wrote down their jobs.

    What SLURM has is taken over by its unique name, and its jobs get the instructions that were to be put in place
    after sbatch; what it does not have is forgotten. Returns what was found, in words.
    """
    lost = [s for s in manifest.submissions if s.launcher == "slurm" and not s.job_ids]
    settled = []
    for submission in lost:
        submission.job_ids = found_jobs(submission, look)
        if submission.job_ids:
            _put_instructions_in_place(submission)
            settled.append(f"found {submission.job_name} again: {len(submission.job_ids)} jobs")
        else:
            manifest.submissions.remove(submission)
    if lost:
        write_manifest(runs_dir, manifest)
    return settled


def found_jobs(submission: Submission, look: Look) -> list[str]:
    """The jobs of a submission whose submitter did not write them down, by its name; empty if SLURM has none."""
    named = [job for job in (*look.jobs.values(), *look.gone.values()) if job.name == submission.job_name]
    if not named:
        return []
    array, is_element, _ = named[0].job_id.partition("_")
    places = range(len(submission.run_ids))
    return [f"{array}_{place // submission.pack}" if is_element else array for place in places]


def _sbatch(array: Array, runs_dir: Path, jobs: Mapping[str, str]) -> list[str]:
    with private_folder(Path(array.submission.folder)):
        return _sbatch_from(array, runs_dir, jobs)


def _sbatch_from(array: Array, runs_dir: Path, jobs: Mapping[str, str]) -> list[str]:
    executor = submitit.SlurmExecutor(folder=array.submission.folder, python=python_command())
    resources = array.runs[0].resources
    parameters = sbatch_parameters(resources) | script_parameters(resources) | {"job_name": array.submission.job_name}
    if dependency := array.dependency(jobs):
        parameters["dependency"] = dependency
    executor.update_parameters(**parameters)
    try:
        # submitit prints sbatch's words, which the error holds as well.
        with outside_of_allocations(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
            handles = [
                executor.submit(pack.start, runs, str(runs_dir))
                if len(runs) > 1
                else executor.submit(job.start, runs[0], str(runs_dir))
                for runs in array.packs()
            ]
    except (FailedJobError, FailedSubmissionError) as error:
        words = "; ".join(line for line in str(error).splitlines() if "sbatch: error" in line)
        words = words or f"sbatch failed: {error}"
        if any(limit in words for limit in _LIMITS):
            raise _LimitReached(words) from error
        if any(lost in words for lost in _LOST):
            return _accepted_all_the_same(array.submission, words)
        raise UserError(words) from error
    return [handle.job_id for handle, runs in zip(handles, array.packs(), strict=True) for _ in runs]


def _accepted_all_the_same(submission: Submission, words: str) -> list[str]:
    """The jobs of a submission that sbatch had no answer to. Raises UserError if squeue does not show them."""
    for _ in range(LOOKS):
        look = queue.look([submission])
        if jobs := found_jobs(submission, look):
            submission.job_ids = jobs
            _put_instructions_in_place(submission)
            return jobs
        time.sleep(SECONDS_APART)
    known = f"squeue says neither: {look.silence}" if look.silence else "squeue does not show it"
    raise UserError(
        f"whether SLURM took {submission.job_name} is unknown ({words}; {known}); run the same command again to see"
    )


def _put_instructions_in_place(submission: Submission) -> None:
    """Gives jobs the pickles that submitit had written for them and not yet renamed; jobs wait a minute for theirs."""
    jobs = dict(zip(submission.run_ids, submission.job_ids, strict=True))
    folder = Path(submission.folder)
    for path in folder.glob("*.pkl"):
        if not path.name.endswith(("_submitted.pkl", "_result.pkl")):
            if not (is_private(folder) and is_private(path)):
                raise UserError(
                    f"{path} is not your own, or others can write to it, so it is not executed: "
                    f"cancel {submission.job_name}, delete its folder and submit again"
                )
            told: ExpectedRun | list[ExpectedRun] = DelayedSubmission.load(path).args[0]
            first = told[0] if isinstance(told, list) else told
            path.rename(JobPaths(submission.folder, job_id=jobs[first.run_id]).submitted_pickle)


def _new_submission(runs_dir: Path, sweep: str, pack: int) -> Submission:
    name = f"{sweep}-{uuid.uuid4().hex[:8]}"
    folder = (runs_dir / "sweeps" / sweep / "jobs" / name).absolute()
    return Submission(name, str(folder), "slurm", [], created=time.time(), user=getpass.getuser(), pack=pack)


def _split(array: Array, size: int, runs_dir: Path, manifest: Manifest) -> list[Array]:
    """An array that SLURM refused whole, in parts of other names, each of which waits for all parents of its runs."""
    within = {run.run_id for parent in array.after_arrays for run in parent.runs}
    parts = []
    for start in range(0, len(array.runs), size):
        runs = array.runs[start : start + size]
        parents = sorted({*array.after_runs, *(p for run in runs for p in run.parents if p in within)})
        submission = _new_submission(runs_dir, manifest.sweep, array.submission.pack)
        part = Array(submission, runs, array.after_jobs, after_runs=parents)
        part.submission.run_ids = [run.run_id for run in runs]
        parts.append(part)
    place = next(i for i, s in enumerate(manifest.submissions) if s is array.submission)
    manifest.submissions[place : place + 1] = [part.submission for part in parts]
    return parts
