"""Where every run of a sweep stands: manifest, records, claims, progress and the scheduler put together.

A record is the truth where there is one; SLURM's own state alone lies (a node failure reads as failed while the job is
queued again, a Python error can read COMPLETED), so it only explains what the record and the claim leave open.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from harness.launch.job import cancelled_path
from harness.record.manifest import ExpectedRun, Manifest, Submission
from harness.record.record import FailureKind, Record, Status, read_record
from harness.run import claim, scheduler
from harness.run.provenance import code_fingerprint
from harness.run.scheduler import Job

# A heartbeat is written every few seconds; over a network file system it may look a minute old.
SILENT_SECONDS = 120.0


class State(str, Enum):
    """pending: handed to the scheduler. waiting: for a parent that has no complete record. interrupted: stopped, to be
    resumed. missing: nothing was ever submitted, or nothing is known of it any more."""

    complete = "complete"
    running = "running"
    pending = "pending"
    waiting = "waiting"
    interrupted = "interrupted"
    failed = "failed"
    cancelled = "cancelled"
    missing = "missing"


ACTIVE = (State.running, State.pending)


@dataclass
class RunState:
    """job: the last job of the run, None where none is known. eta: seconds of training that are left, as far as known.

    metrics: those of the record, per IoU type. failure_kind: one of `FailureKind` for failed and cancelled runs.
    stale: the run is complete, and other code or other defaults would make it today.
    """

    sweep: str
    run: ExpectedRun
    state: State
    reason: str = ""
    failure_kind: str | None = None
    job: str | None = None
    iteration: int | None = None
    loss: float | None = None
    eta: float | None = None
    metrics: dict[str, dict[str, float | None]] | None = None
    stale: bool = False

    def as_json(self) -> dict[str, Any]:
        content = asdict(self)
        run = content.pop("run")
        return {"run_id": run["run_id"], "name": run["name"], "axes": run["axes"], "total": run["iterations"]} | {
            **content,
            "state": self.state.value,
        }


@dataclass(frozen=True)
class _Known:
    """What the scheduler knows: queue is None when it gave no answer. code: the fingerprint of the code installed."""

    queue: dict[str, Job] | None
    ended: dict[str, Job]
    code: str


def collect(runs: Path, manifests: Sequence[Manifest]) -> list[RunState]:
    """The state of every run of these sweeps, in their order."""
    names = [s.job_name for manifest in manifests for s in manifest.submissions if s.launcher == "slurm"]
    queue = scheduler.queued(names) if names else {}
    found: list[RunState] = []
    with ThreadPoolExecutor(16) as pool:
        for manifest in manifests:
            found += _sweep_states(runs, manifest, queue, pool)
    _say_what_is_waited_for(found)
    return found


def _sweep_states(
    runs: Path, manifest: Manifest, queue: dict[str, Job] | None, pool: ThreadPoolExecutor
) -> Iterable[RunState]:
    all_jobs = jobs_of(manifest)
    jobs = {run.run_id: all_jobs.get(run.run_id, []) for run in manifest.runs}
    records = dict(zip(jobs, pool.map(partial(read_record, runs), jobs), strict=True))
    known = _Known(queue, _ended_jobs(manifest, jobs, records, queue), code_fingerprint())

    def state(run: ExpectedRun) -> RunState:
        return _state(runs, manifest, run, records[run.run_id], jobs[run.run_id], known)

    return pool.map(state, manifest.runs)


def jobs_of(manifest: Manifest) -> dict[str, list[tuple[Submission, str]]]:
    """Every run's submissions with its job in each, oldest first."""
    found: dict[str, list[tuple[Submission, str]]] = {}
    for submission in manifest.submissions:
        for run_id, job in zip(submission.run_ids, submission.job_ids, strict=False):
            found.setdefault(run_id, []).append((submission, job))
    return found


def _ended_jobs(
    manifest: Manifest,
    jobs: dict[str, list[tuple[Submission, str]]],
    records: dict[str, Record | None],
    queue: dict[str, Job] | None,
) -> dict[str, Job]:
    """Accounting, asked only for the jobs that neither a record nor the queue explains."""
    unexplained = []
    for run in manifest.runs:
        record, own = records[run.run_id], jobs[run.run_id]
        complete = record is not None and record.status is Status.complete
        if own and not complete and own[-1][0].launcher == "slurm" and own[-1][1] not in (queue or {}):
            unexplained.append(own[-1][1])
    return scheduler.ended(unexplained) if unexplained else {}


def _state(
    runs: Path,
    manifest: Manifest,
    run: ExpectedRun,
    record: Record | None,
    jobs: list[tuple[Submission, str]],
    known: _Known,
) -> RunState:
    row = RunState(manifest.sweep, run, State.missing, job=jobs[-1][1] if jobs else None)
    if record is not None and record.status is Status.complete:
        row.state, row.metrics, row.iteration = State.complete, record.metrics, run.iterations
        if record.provenance.get("code", known.code) != known.code:
            row.stale, row.reason = True, "stale: made by other code or defaults; without its folder it is run anew"
        return row
    _add_progress(row, runs)
    active = next((known.queue[job] for _, job in reversed(jobs) if known.queue and job in known.queue), None)
    if active is not None:
        row.job = active.job_id
    if _is_held(runs, run, jobs, known):
        row.state, row.reason = State.running, _running_reason(row, runs, active)
    elif active is not None:
        _explain_queued(row, active)
    elif jobs and _is_local_job(*jobs[-1]):
        row.state, row.reason = State.running, "starting"
    elif cancelled_path(runs, run.run_id).exists():
        row.state, row.failure_kind = State.cancelled, FailureKind.cancelled.value
    else:
        _explain_stopped(row, runs, record, jobs, known)
    if row.state is not State.running:
        row.eta = None
    return row


def _is_local_job(submission: Submission, pid: str) -> bool:
    """Whether the controller that submitit started for a local run lives on this machine."""
    if submission.launcher != "local":
        return False
    try:
        return submission.folder in psutil.Process(int(pid)).cmdline()
    except psutil.Error:
        return False


def _is_held(runs: Path, run: ExpectedRun, jobs: list[tuple[Submission, str]], known: _Known) -> bool:
    own = {job for submission, job in jobs if submission.launcher == "slurm"}

    def is_active(job: str) -> bool | None:
        if known.queue is None or (job not in own and job not in known.queue):
            return None
        return job in known.queue and known.queue[job].state != "PENDING"

    held = claim.held(runs / run.run_id, is_active)
    if held is None:
        silent = claim.silent_seconds(runs / run.run_id)
        return silent is not None and silent < SILENT_SECONDS
    return held


def _running_reason(row: RunState, runs: Path, active: Job | None) -> str:
    owner = claim.owner(runs / row.run.run_id)
    where = active.reason if active is not None else owner.host if owner else ""
    restarts = owner.restart if owner else 0
    doing = "evaluating, " if row.run.iterations and row.iteration == row.run.iterations else ""
    return f"{doing}on {where}" + (f", restarted {restarts} times" if restarts else "")


def _explain_queued(row: RunState, job: Job) -> None:
    if job.state == "COMPLETING":
        # A job that queued itself again looks like this for some seconds: its end is not known yet.
        row.state, row.reason = State.running, f"ending on {job.reason}"
    elif job.state != "PENDING":
        row.state, row.reason = State.running, f"starting on {job.reason}"
    elif job.reason.startswith("Dependency"):
        row.state = State.pending
        row.reason = "after its parents" if job.reason == "Dependency" else "its dependency can never be met"
    else:
        row.state, row.reason = State.pending, job.reason


# SLURM's word -> ours, and what to do about it.
_ENDS = {
    "OUT_OF_MEMORY": (FailureKind.out_of_memory, "killed for memory; raise launcher.memory_gb"),
    "TIMEOUT": (FailureKind.timeout, "killed at its time limit before it could save; raise launcher.minutes"),
    "DEADLINE": (FailureKind.timeout, "killed at its deadline"),
    "NODE_FAIL": (FailureKind.node_failure, "its node failed"),
    "BOOT_FAIL": (FailureKind.node_failure, "its node failed to boot"),
    "PREEMPTED": (FailureKind.cancelled, "preempted without being queued again"),
    "CANCELLED": (FailureKind.cancelled, "cancelled by scancel"),
}


def _explain_stopped(
    row: RunState, runs: Path, record: Record | None, jobs: list[tuple[Submission, str]], known: _Known
) -> None:
    """The state of a run that no process holds and no queue knows."""
    last = jobs[-1][0] if jobs else None
    speaks = record is not None and (last is None or (record.ended or 0.0) >= last.created)
    if record is not None and speaks and record.status is Status.failed:
        row.state, row.failure_kind = State.failed, (record.failure or {}).get("kind")
        row.reason = _last_line((record.failure or {}).get("message", ""))
        return
    if record is not None and speaks and record.status is Status.waiting:
        row.state, row.reason = State.waiting, (record.failure or {}).get("message", "")
        return
    if not jobs and claim.owner(runs / row.run.run_id) is None:
        row.reason = "not submitted"
        return
    kind, reason = _end(row, runs, last, known)
    if kind is None:
        row.state, row.reason = State.interrupted, reason
    elif kind is FailureKind.cancelled:
        row.state, row.reason, row.failure_kind = State.cancelled, reason, kind.value
    else:
        row.state, row.reason, row.failure_kind = State.failed, reason, kind.value


# What SLURM writes last into a killed job's output, for clusters without accounting.
_LAST_WORDS = {
    "DUE TO TIME LIMIT": "TIMEOUT",
    "DUE TO NODE FAILURE": "NODE_FAIL",
    "DUE TO PREEMPTION": "PREEMPTED",
    "oom_kill": "OUT_OF_MEMORY",
    "oom-kill": "OUT_OF_MEMORY",
    "CANCELLED AT": "CANCELLED",
}


def _end(row: RunState, runs: Path, last: Submission | None, known: _Known) -> tuple[FailureKind | None, str]:
    accounted = known.ended.get(row.job or "")
    word = accounted.state if accounted else _last_words(last, row.job)
    if word in _ENDS:
        return _ENDS[word]
    owner = claim.owner(runs / row.run.run_id)
    if owner is None or (row.job and owner.job not in (None, row.job) and row.iteration is None):
        end = f" ({accounted.state}, {accounted.reason})" if accounted else ""
        return FailureKind.never_started, f"its job ended before the run began{end}; see `harness logs`"
    return None, "stopped and not queued again; `harness retry` goes on from its checkpoint"


def _last_words(submission: Submission | None, job: str | None) -> str:
    """SLURM's word for how a job ended, from the last lines of its output; empty without one."""
    if submission is None or job is None:
        return ""
    try:
        with (Path(submission.folder) / f"{job}_0_log.err").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            lines = file.read().decode(errors="replace").splitlines()[-4:]
    except OSError:
        return ""
    return next((word for text, word in _LAST_WORDS.items() if any(text in line for line in lines)), "")


def _say_what_is_waited_for(rows: Iterable[RunState]) -> None:
    """Runs that nothing was done about because a parent is not complete wait for it."""
    listed = list(rows)
    by_id = {row.run.run_id: row for row in listed}
    for row in listed:
        open_parents = [by_id[p] for p in row.run.parents if p in by_id and by_id[p].state is not State.complete]
        if row.state is State.pending and open_parents and row.reason == "after its parents":
            row.reason = "after " + ", ".join(str(parent.job or parent.run.run_id) for parent in open_parents)
        elif row.state in (State.missing, State.waiting) and open_parents:
            row.state = State.waiting
            row.reason = "for " + ", ".join(f"{parent.run.run_id} ({parent.state.value})" for parent in open_parents)
        elif row.state is State.waiting:
            row.reason = "its parents are complete by now: `harness sweep` or `harness retry` starts it"


def _add_progress(row: RunState, runs: Path) -> None:
    """Reads the last line of metrics.jsonl."""
    line = last_metrics(runs / row.run.run_id / "metrics.jsonl")
    if line is None:
        return
    row.iteration, row.loss = line.get("iteration"), line.get("loss")
    speed = line.get("steps_per_second")
    if speed and row.iteration is not None:
        since = max(0.0, time.time() - line.get("time", time.time()))
        row.eta = max(0.0, (row.run.iterations - row.iteration) / speed - since)


def last_metrics(path: Path) -> dict[str, Any] | None:
    """The last complete line of a metrics file, without reading the rest."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 16384))
            lines = file.read().splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            return line
    return None


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
