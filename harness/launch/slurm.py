"""Handing runs to SLURM through submitit: job arrays, dependencies, and finding again what a dead submitter left."""

from __future__ import annotations

import contextlib
import getpass
import io
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from harness.errors import UserError
from harness.launch import job, queue
from harness.launch.queue import Look
from harness.launch.resources import python_command, sbatch_parameters, script_parameters
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.run.scheduler import outside_of_allocations

# sbatch's words for a submission that may come through when fewer jobs are in the queue.
_LIMITS = ("SubmitJob", "job submit limit", "MaxJobCount", "temporarily unable to accept job")
# Words for no answer, after which the job may be there or not.
_LOST = ("Socket timed out", "Unable to contact", "Zero Bytes", "Transport endpoint", "timed out", "Connection re")
# How often, and how many seconds apart, squeue is asked about a job whose sbatch had no answer.
LOOKS, SECONDS_APART = 4, 2.0


class _LimitReached(Exception):
    """SLURM takes no more jobs for the time being."""


@dataclass
class Array:
    """Runs that are submitted together: equal resources, equal parents. after: parents in earlier arrays or jobs."""

    submission: Submission
    runs: list[ExpectedRun]
    after_jobs: list[str] = field(default_factory=list)
    after_runs: list[str] = field(default_factory=list)


@dataclass
class Submitted:
    """The job of each run that was submitted; limit: SLURM's words where it took no more, empty otherwise."""

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
                if len(array.runs) == 1:
                    done.limit = str(reached)
                    break
                waiting[:1] = _split(array, (len(array.runs) + 1) // 2, runs_dir, manifest)
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
    """The arrays that `runs` (parents first) make."""
    submitted = {run.run_id for run in runs}
    groups: dict[tuple[Any, ...], Array] = {}
    for run in runs:
        sbatch_parameters(run.resources)  # all of them are checked before the first one is submitted
        after_runs = sorted(parent for parent in run.parents if parent in submitted)
        after_jobs = sorted(active[parent] for parent in run.parents if parent in active)
        key = (repr(sorted(run.resources.items())), *after_runs, *after_jobs)
        if key not in groups:
            groups[key] = Array(_new_submission(runs_dir, sweep), [], after_jobs, after_runs)
        groups[key].runs.append(run)
    limit = queue.largest_array()
    return [part for array in groups.values() for part in _parts(array, limit, runs_dir, sweep)]


def reconcile(runs_dir: Path, manifest: Manifest, look: Look) -> list[str]:
    """Settles the submissions whose submitter died, or had no answer, before it wrote down their jobs.

    What SLURM has is taken over by its unique name, and its jobs get the instructions that were to be put in place
    after sbatch; what it does not have is forgotten. Returns what was found, in words.
    """
    lost = [s for s in manifest.submissions if s.launcher == "slurm" and not s.job_ids]
    said = []
    for submission in lost:
        submission.job_ids = found_jobs(submission, look)
        if submission.job_ids:
            _put_instructions_in_place(submission)
            said.append(f"found {submission.job_name} again: {len(submission.job_ids)} jobs")
        else:
            manifest.submissions.remove(submission)
    if lost:
        write_manifest(runs_dir, manifest)
    return said


def found_jobs(submission: Submission, look: Look) -> list[str]:
    """The jobs of a submission whose submitter did not write them down, by its name; empty where SLURM has none."""
    named = [job for job in (*look.jobs.values(), *look.gone.values()) if job.name == submission.job_name]
    if not named:
        return []
    array, is_element, _ = named[0].job_id.partition("_")
    return [f"{array}_{index}" for index in range(len(submission.run_ids))] if is_element else [array]


def _sbatch(array: Array, runs_dir: Path, jobs: Mapping[str, str]) -> list[str]:
    executor = submitit.SlurmExecutor(folder=array.submission.folder, python=python_command())
    after = [*array.after_jobs, *(jobs[run_id] for run_id in array.after_runs)]
    resources = array.runs[0].resources
    parameters = sbatch_parameters(resources) | script_parameters(resources) | {"job_name": array.submission.job_name}
    if after:
        parameters["dependency"] = f"afterany:{':'.join(after)}"
    executor.update_parameters(**parameters)
    try:
        # submitit prints sbatch's words, which the error holds as well.
        with outside_of_allocations(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
            handles = [executor.submit(job.start, run, str(runs_dir)) for run in array.runs]
    except (FailedJobError, FailedSubmissionError) as error:
        words = "; ".join(line for line in str(error).splitlines() if "sbatch: error" in line)
        words = words or f"sbatch failed: {error}"
        if any(limit in words for limit in _LIMITS):
            raise _LimitReached(words) from error
        if any(lost in words for lost in _LOST):
            return _accepted_all_the_same(array.submission, words)
        raise UserError(words) from error
    return [handle.job_id for handle in handles]


def _accepted_all_the_same(submission: Submission, words: str) -> list[str]:
    """The jobs of a submission that sbatch had no answer to. Raises UserError where squeue does not show them."""
    for _ in range(LOOKS):
        look = queue.look([submission])
        if jobs := found_jobs(submission, look):
            submission.job_ids = jobs
            _put_instructions_in_place(submission)
            return jobs
        time.sleep(SECONDS_APART)
    known = f"squeue says neither: {look.silence}" if look.silence else "squeue does not show it"
    raise UserError(
        f"whether SLURM took {submission.job_name} is unknown ({words}; {known}); the same command settles it"
    )


def _put_instructions_in_place(submission: Submission) -> None:
    """Gives jobs the pickles that submitit had written for them and not yet renamed; jobs wait a minute for theirs."""
    jobs = dict(zip(submission.run_ids, submission.job_ids, strict=True))
    for path in Path(submission.folder).glob("*.pkl"):
        if not path.name.endswith(("_submitted.pkl", "_result.pkl")):
            run: ExpectedRun = DelayedSubmission.load(path).args[0]
            path.rename(JobPaths(submission.folder, job_id=jobs[run.run_id]).submitted_pickle)


def _new_submission(runs_dir: Path, sweep: str) -> Submission:
    name = f"{sweep}-{uuid.uuid4().hex[:8]}"
    folder = (runs_dir / "sweeps" / sweep / "jobs" / name).absolute()
    return Submission(name, str(folder), "slurm", [], created=time.time(), user=getpass.getuser())


def _parts(array: Array, size: int, runs_dir: Path, sweep: str) -> Iterator[Array]:
    for start in range(0, len(array.runs), size):
        part = array.runs[start : start + size]
        submission = array.submission if start == 0 else _new_submission(runs_dir, sweep)
        submission.run_ids = [run.run_id for run in part]
        yield Array(submission, part, array.after_jobs, array.after_runs)


def _split(array: Array, size: int, runs_dir: Path, manifest: Manifest) -> list[Array]:
    """An array that SLURM refused whole, in parts of other names."""
    renamed = Array(_new_submission(runs_dir, manifest.sweep), array.runs, array.after_jobs, array.after_runs)
    parts = list(_parts(renamed, size, runs_dir, manifest.sweep))
    place = next(i for i, s in enumerate(manifest.submissions) if s is array.submission)
    manifest.submissions[place : place + 1] = [part.submission for part in parts]
    return parts
