"""Handing runs to SLURM through submitit: job arrays, dependencies, and finding again what a dead submitter left."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from harness.errors import UserError
from harness.launch import job
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.run import scheduler


@dataclass
class Array:
    """Runs that are submitted together: equal resources, equal parents. after: parents in earlier arrays or jobs."""

    submission: Submission
    runs: list[ExpectedRun]
    after_jobs: list[str] = field(default_factory=list)
    after_runs: list[str] = field(default_factory=list)


def submit(
    runs_dir: Path,
    manifest: Manifest,
    runs: Sequence[ExpectedRun],
    active: Mapping[str, str],
    report: Callable[[str], None],
) -> dict[str, str]:
    """Submits runs, parents first, and returns the job of each. `active` holds the jobs of runs that wait or run.

    The manifest on disk names every array before the first sbatch. Raises UserError with sbatch's own words.
    """
    arrays = plan(runs_dir, manifest.sweep, runs, active)
    manifest.submissions += [array.submission for array in arrays]
    write_manifest(runs_dir, manifest)
    jobs: dict[str, str] = {}
    for array in arrays:
        ids = array.submission.job_ids = _sbatch(array, runs_dir, jobs)
        jobs |= dict(zip(array.submission.run_ids, ids, strict=True))
        write_manifest(runs_dir, manifest)
        report(f"submitted {array.submission.job_name}: {len(ids)} runs, jobs {ids[0]} to {ids[-1]}")
    return jobs


def plan(runs_dir: Path, sweep: str, runs: Sequence[ExpectedRun], active: Mapping[str, str]) -> list[Array]:
    """The arrays that `runs` (parents first) make."""
    submitted = {run.run_id for run in runs}
    groups: dict[tuple[Any, ...], Array] = {}
    for run in runs:
        after_runs = sorted(parent for parent in run.parents if parent in submitted)
        after_jobs = sorted(active[parent] for parent in run.parents if parent in active)
        key = (repr(sorted(run.resources.items())), *after_runs, *after_jobs)
        if key not in groups:
            groups[key] = Array(_new_submission(runs_dir, sweep), [], after_jobs, after_runs)
        groups[key].runs.append(run)
    limit = scheduler.largest_array()
    return [part for array in groups.values() for part in _parts(array, limit, runs_dir, sweep)]


def sbatch_parameters(resources: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters for a run's launcher settings. Raises UserError for ranks that the nodes cannot share."""
    nodes, ranks, gpus = resources["nodes"], resources["ranks"], resources["gpus"]
    if ranks % nodes:
        raise UserError(f"{ranks} ranks (schedule.global_batch / schedule.batch_per_rank) on launcher.nodes={nodes}")
    if gpus and gpus * nodes != ranks:
        raise UserError(
            f"launcher.nodes={nodes} with launcher.gpus={gpus} each is {nodes * gpus} GPUs, but "
            f"schedule.global_batch / schedule.batch_per_rank makes {ranks} ranks: one GPU a rank"
        )
    further = {key: _flag(value) for key, value in resources["sbatch"].items()}
    parameters = {
        "time": resources["minutes"],
        "nodes": nodes,
        "ntasks_per_node": ranks // nodes,
        "cpus_per_task": resources["cpus"],
        "gpus_per_node": gpus or None,
        "mem": f"{round(resources['memory_gb'] * 1024)}MB",
        "array_parallelism": resources["parallel"],
        "signal_delay_s": resources["signal_seconds"],
        "setup": resources["setup"] or None,
        # A rank that dies takes the others with it at once, and srun no longer inherits the number of CPUs.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={resources['cpus']}"],
        "additional_parameters": {"requeue": True, **{k: v for k, v in further.items() if v is not None}},
    }
    for name in ("partition", "account", "qos", "constraint", "exclude", "comment"):
        parameters[name] = resources[name]
    return {key: value for key, value in parameters.items() if value is not None}


def reconcile(runs_dir: Path, manifest: Manifest) -> list[str]:
    """Settles the submissions whose submitter died before it wrote down their jobs; says what was found.

    Arrays that are complete are taken over by their unique name. One whose elements lack their instructions, which
    are put in place after sbatch, is cancelled: its elements could only fail. Raises UserError when SLURM is silent.
    """
    lost = [s for s in manifest.submissions if s.launcher == "slurm" and not s.job_ids]
    if not lost:
        return []
    queue = scheduler.queued(s.job_name for s in lost)
    if queue is None:
        raise UserError("squeue gives no answer; is this a machine of the cluster, and is its controller up?")
    settled = []
    for submission in lost:
        jobs = [j.job_id for j in queue.values() if j.name == submission.job_name]
        names = sorted(jobs, key=_element)
        whole = len(names) == len(submission.run_ids) and not _instructions_left(Path(submission.folder))
        if names and whole:
            submission.job_ids = names
            settled.append(f"found {submission.job_name} again: {len(names)} jobs")
            continue
        if names:
            scheduler.cancel(sorted({name.partition("_")[0] for name in names}))
            settled.append(f"cancelled {submission.job_name}, which was submitted in part")
        manifest.submissions.remove(submission)
    write_manifest(runs_dir, manifest)
    return settled


def _sbatch(array: Array, runs_dir: Path, jobs: Mapping[str, str]) -> list[str]:
    executor = submitit.SlurmExecutor(folder=array.submission.folder)
    after = [*array.after_jobs, *(jobs[run_id] for run_id in array.after_runs)]
    parameters = sbatch_parameters(array.runs[0].resources) | {"job_name": array.submission.job_name}
    if after:
        parameters["dependency"] = f"afterany:{':'.join(after)}"
    executor.update_parameters(**parameters)
    try:
        with executor.batch():
            handles = [executor.submit(job.start, run, str(runs_dir)) for run in array.runs]
    except (FailedJobError, FailedSubmissionError) as error:
        words = [line for line in str(error).splitlines() if "sbatch: error" in line]
        raise UserError("; ".join(words) or f"sbatch failed: {error}") from error
    return [handle.job_id for handle in handles]


def _new_submission(runs_dir: Path, sweep: str) -> Submission:
    name = f"{sweep}-{uuid.uuid4().hex[:8]}"
    folder = (runs_dir / "sweeps" / sweep / "jobs" / name).absolute()
    return Submission(job_name=name, folder=str(folder), launcher="slurm", run_ids=[], created=time.time())


def _parts(array: Array, limit: int, runs_dir: Path, sweep: str) -> Iterator[Array]:
    for start in range(0, len(array.runs), limit):
        part = array.runs[start : start + limit]
        submission = array.submission if start == 0 else _new_submission(runs_dir, sweep)
        submission.run_ids = [run.run_id for run in part]
        yield Array(submission, part, array.after_jobs, array.after_runs)


def _flag(value: str) -> str | bool | None:
    """An sbatch flag's value: true for a flag without one, null or false to leave it out."""
    return {"true": True, "false": None, "null": None}.get(str(value).lower(), value)


def _element(name: str) -> int:
    return int(name.partition("_")[2] or 0)


def _instructions_left(folder: Path) -> bool:
    """Whether pickles lie there that submitit had not yet given to their jobs."""
    return any(not path.name.endswith("_submitted.pkl") for path in folder.glob("*.pkl"))
