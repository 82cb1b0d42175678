"""The state of every run of a sweep: manifest, records, claims, progress and the scheduler put together.

A record is the truth where there is one; SLURM's own state alone lies (a node failure reads as failed while the job is
queued again, a Python error can read COMPLETED), so it only explains what the record and the claim leave open. What
SLURM gave no answer to is shown as unknown.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import partial
from getpass import getuser
from pathlib import Path
from typing import Any

import psutil

from harness.launch import queue
from harness.launch.endings import ending, exit_code, last_lines
from harness.launch.job import has_failed, is_cancelled
from harness.launch.queue import Job, Look
from harness.launch.slurm import found_jobs
from harness.record.manifest import ExpectedRun, Manifest, Submission
from harness.record.reading import regular_file
from harness.record.record import FailureKind, Record, Status, record_as_found
from harness.record.waiting import read_each
from harness.run import claim
from harness.run.provenance import code_fingerprint

# A heartbeat is written every few seconds; over a network file system it may look a minute old.
SILENT_SECONDS = 120.0
CANCELLED_HERE = "by `harness cancel`"


class State(str, Enum):
    """pending: handed to the scheduler. waiting: for a parent that has no complete record. interrupted: stopped, to be
    resumed. missing: nothing was ever submitted. unknown: the scheduler gives no answer, and nothing else tells."""

    complete = "complete"
    running = "running"
    pending = "pending"
    waiting = "waiting"
    interrupted = "interrupted"
    failed = "failed"
    cancelled = "cancelled"
    unknown = "unknown"
    missing = "missing"


ACTIVE = (State.running, State.pending)


@dataclass
class RunState:
    """job: the last job of the run, None if none is known. eta: seconds of training that are left, as far as known.

    metrics: those of the record, per IoU type. failure_kind: one of `FailureKind` for failed and cancelled runs.
    node: where its last job ran, as far as accounting tells. stale: the run is complete, and other code or other
    defaults would make it today.
    """

    sweep: str
    run: ExpectedRun
    state: State
    reason: str = ""
    failure_kind: str | None = None
    job: str | None = None
    node: str = ""
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
    """What the scheduler knows of a sweep's jobs; ended is None if accounting gave no answer.

    code: the fingerprint of the code installed.
    """

    look: Look
    ended: dict[str, Job] | None
    code: str

    def end_of(self, job: str | None) -> Job | None:
        """Accounting lags by seconds behind the controller, and knows longer."""
        accounted = (self.ended or {}).get(job or "")
        if accounted is not None and accounted.state not in queue.ACTIVE:
            return accounted
        return self.look.gone.get(job or "")

    def was_taken_out(self, job: str | None) -> bool:
        """Whether a job was cancelled as a waiting element of an array: SLURM then knows the others alone."""
        array, is_element, _ = (job or "").partition("_")
        others = {*self.look.jobs, *self.look.gone, *(self.ended or {})}
        return bool(is_element) and any(other.startswith(f"{array}_") for other in others - {job})


def collect(runs: Path, manifests: Sequence[Manifest], look: Look | None = None) -> list[RunState]:
    """The state of every run of these sweeps, in their order, by one look at the scheduler: `look`, or a new one."""
    if look is None:
        look = queue.look(submission for manifest in manifests for submission in manifest.submissions)
    found: list[RunState] = []
    for manifest in manifests:
        found += _sweep_states(runs, manifest, look)
    _say_what_is_waited_for(found)
    return found


def _sweep_states(runs: Path, manifest: Manifest, look: Look) -> list[RunState]:
    all_jobs = jobs_of(manifest, look)
    jobs = {run.run_id: all_jobs.get(run.run_id, []) for run in manifest.runs}
    records = dict(zip(jobs, read_each(partial(record_as_found, runs), jobs), strict=True))
    known = _Known(look, _ended_jobs(manifest, jobs, records, look), code_fingerprint())

    def state(run: ExpectedRun) -> RunState:
        return _state(runs, manifest, run, records[run.run_id], jobs[run.run_id], known)

    return read_each(state, manifest.runs)


def jobs_of(manifest: Manifest, look: Look = queue.NOTHING_ASKED) -> dict[str, list[tuple[Submission, str]]]:
    """Every run's submissions with its job in each, oldest first.

    Jobs that were never written down, since sbatch gave no answer or its caller died, are found in `look` by name.
    """
    found: dict[str, list[tuple[Submission, str]]] = {}
    for submission in manifest.submissions:
        jobs = submission.job_ids or found_jobs(submission, look)
        for run_id, job in zip(submission.run_ids, jobs, strict=False):
            found.setdefault(run_id, []).append((submission, job))
    return found


def _ended_jobs(
    manifest: Manifest,
    jobs: dict[str, list[tuple[Submission, str]]],
    records: dict[str, Record | None],
    look: Look,
) -> dict[str, Job] | None:
    """Accounting, asked only for the jobs that neither a record nor the queue explains."""
    unexplained = []
    for run in manifest.runs:
        record, own = records[run.run_id], jobs[run.run_id]
        complete = record is not None and record.status is Status.complete
        if own and not complete and own[-1][0].launcher == "slurm" and own[-1][1] not in look.jobs:
            unexplained.append(own[-1][1])
    return look.ended(unexplained) if unexplained and not look.silence else {}


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
        if record.stage:
            _set_rows(row, int(record.cost.get("iterations", 0)))
            row.iteration = row.run.iterations
        if record.provenance.get("code", known.code) != known.code:
            row.stale, row.reason = True, "stale: made by other code or defaults; delete its folder to run it again"
        return row
    _add_progress(row, runs)
    active = next((known.look.jobs[job] for _, job in reversed(jobs) if job in known.look.jobs), None)
    if active is not None:
        row.job = active.job_id
    if _is_held(runs, run, jobs, known.look):
        row.state, row.reason = State.running, _running_reason(row, runs, active)
    elif active is not None and not _ended_in_shared_job(runs, row, record, jobs):
        _explain_queued(row, active)
    elif jobs and local_process(*jobs[-1]) is not None:
        row.state, row.reason = State.running, "starting"
    elif is_cancelled(runs, run.run_id, row.job):
        row.state, row.reason, row.failure_kind = State.cancelled, CANCELLED_HERE, FailureKind.cancelled.value
    else:
        _explain_stopped(row, runs, record, jobs, known)
        _explain_unsettled(row, runs, manifest, known.look)
    if row.state is not State.running:
        row.eta = None
    return row


def local_process(submission: Submission, job: str) -> psutil.Process | None:
    """The process of a local run's rank 0, where it lives on this machine."""
    if submission.launcher != "local" or submission.host not in ("", socket.gethostname()):
        return None
    try:
        process = psutil.Process(int(job))
        return process if submission.folder in process.cmdline() else None
    except psutil.Error:
        return None


def _is_held(runs: Path, run: ExpectedRun, jobs: list[tuple[Submission, str]], look: Look) -> bool:
    own = {job for submission, job in jobs if submission.launcher == "slurm"}

    def is_active(job: str) -> bool | None:
        if look.silence or (job not in own and job not in look.jobs):
            return None
        return job in look.jobs and look.jobs[job].state != "PENDING"

    held = claim.held(runs / run.run_id, is_active)
    if held is None:
        silent = claim.silent_seconds(runs / run.run_id)
        return silent is not None and silent < SILENT_SECONDS
    return held


def _ended_in_shared_job(runs: Path, row: RunState, record: Record | None, jobs: list[tuple[Submission, str]]) -> bool:
    """Whether a run is over though its job waits or runs, for the sake of the runs beside it."""
    if not jobs or jobs[-1][0].pack == 1:
        return False
    return is_cancelled(runs, row.run.run_id, row.job) or has_failed(record, row.job)


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
        # Where a parent did not end well, a job that waits for its success stays in the queue for ever.
        row.state = State.pending if job.reason == "Dependency" else State.waiting
        row.reason = "after its parents" if job.reason == "Dependency" else "its dependency can never be met"
    else:
        row.state, row.reason = State.pending, job.reason


def _explain_stopped(
    row: RunState, runs: Path, record: Record | None, jobs: list[tuple[Submission, str]], known: _Known
) -> None:
    """The state of a run that no process holds and no queue shows."""
    last = jobs[-1][0] if jobs else None
    failure = (record.failure if record is not None else None) or {}
    speaks = record is not None and _speaks(record, jobs)
    end = known.end_of(row.job)
    row.node = end.node if end else ""
    if record is not None and speaks and record.status is Status.failed:
        row.state, row.failure_kind, row.reason = (
            State.failed,
            failure.get("kind"),
            _last_line(failure.get("message", "")),
        )
        cause = ending(last, row.job, None)
        if cause is not None and cause[0] is FailureKind.out_of_memory:  # of a loader worker, say: a mere Python error
            row.failure_kind, row.reason = cause[0].value, cause[1]
    elif record is not None and speaks and record.status is Status.waiting:
        row.state, row.reason = State.waiting, failure.get("message", "")
    elif last is not None and last.launcher == "slurm" and (silence := _silence(last, end, known)):
        row.state, row.reason = State.unknown, silence
    elif not jobs and claim.owner(runs / row.run.run_id) is None:
        row.reason = "not submitted"
    elif cause := ending(last, row.job, end):
        kind, row.reason = cause
        row.state = State.cancelled if kind is FailureKind.cancelled else State.failed
        row.failure_kind = kind.value
    else:
        _explain_end(row, runs, failure.get("message", "") if speaks else "", last, known)


def _explain_unsettled(row: RunState, runs: Path, manifest: Manifest, look: Look) -> None:
    """Of a run whose latest submission has no jobs yet: it is under way, or its end is not known."""
    last = next((s for s in reversed(manifest.submissions) if row.run.run_id in s.run_ids), None)
    if last is None or last.launcher != "slurm" or last.job_ids or found_jobs(last, look):
        return
    if claim.held(runs / "sweeps" / manifest.sweep, lambda job: None):
        row.state, row.reason = State.pending, "being submitted"
    elif look.silence:
        row.state, row.reason = State.unknown, look.silence


def _explain_end(row: RunState, runs: Path, message: str, last: Submission | None, known: _Known) -> None:
    """The state of a run that stopped, and SLURM has no word for why. message: that of a record of its last job."""
    end = known.end_of(row.job)
    owner, code = claim.owner(runs / row.run.run_id), exit_code(end)
    why = f" ({end.state}, {end.reason})" if end else " (sacct gives no answer)" if known.ended is None else ""
    began = owner is not None and (row.job is None or owner.job in (None, row.job))
    wrote = last is not None and row.job is not None and any(last_lines(last, row.job))
    if not (began or wrote or end) and known.was_taken_out(row.job):
        row.state, row.failure_kind = State.cancelled, FailureKind.cancelled.value
        row.reason = "cancelled by scancel"
    elif not began:
        row.reason = f"its job ended before the run began{why}; see `harness logs`"
        row.state = State.failed if row.iteration is None else State.interrupted
        row.failure_kind = FailureKind.never_started.value if row.iteration is None else None
    elif message:
        row.state, row.reason = State.interrupted, f"stopped: {message}; `harness retry` resumes from its checkpoint"
    elif code and code < 128:
        row.state, row.failure_kind = State.failed, FailureKind.no_record.value
        row.reason = f"its job ended with exit code {code} and left no record; see `harness logs`"
    else:
        killed = f"killed by signal {code - 128}" if code else "stopped"
        row.state, row.reason = State.interrupted, f"{killed}, not queued again; `harness retry` resumes it"


def _silence(last: Submission, end: Job | None, known: _Known) -> str:
    """Why nothing is known of a run's last job; empty if it is known to have ended."""
    if known.look.silence:
        return known.look.silence
    if end is None and known.look.hides and last.user not in ("", getuser()):
        return f"squeue shows no jobs of others here; ask {last.user}"
    return ""


def _speaks(record: Record, jobs: list[tuple[Submission, str]]) -> bool:
    """Whether a record tells of the run's last job: by the job's name, since nodes' clocks differ.

    Records of runs that were started by hand, and of older versions, are recognised by time.
    """
    if (record.failure or {}).get("kind") == FailureKind.damaged_record.value:
        return True
    made_by = record.provenance.get("job")
    if "starts" in record.cost and made_by in [job for _, job in jobs]:
        return bool(made_by == jobs[-1][1])
    return not jobs or (record.ended or 0.0) >= jobs[-1][0].created


def _say_what_is_waited_for(rows: Iterable[RunState]) -> None:
    """Runs that nothing was done about because a parent is not complete wait for it."""
    listed = list(rows)
    by_id = {row.run.run_id: row for row in listed}
    for row in listed:
        open_parents = [by_id[p] for p in row.run.parents if p in by_id and by_id[p].state is not State.complete]
        if row.state is State.pending and open_parents and row.reason == "after its parents":
            row.reason = "after " + ", ".join(str(parent.job or parent.run.run_id) for parent in open_parents)
        elif open_parents and (row.state in (State.missing, State.waiting) or _was_given_up(row, open_parents)):
            row.state = State.waiting
            row.failure_kind = None
            row.reason = "for " + ", ".join(f"{parent.run.run_id} ({parent.state.value})" for parent in open_parents)
        elif row.state is State.waiting:
            row.reason = "its parents are complete now: `harness sweep` or `harness retry` starts it"


def _was_given_up(row: RunState, open_parents: Sequence[RunState]) -> bool:
    """Whether SLURM cancelled a run's job, which had never started, since what it waited for cannot come any more."""
    badly = (State.failed, State.cancelled, State.interrupted, State.waiting)
    is_ours = row.reason == CANCELLED_HERE
    never_began = row.iteration is None and row.node in ("", "None assigned")
    return row.state is State.cancelled and not is_ours and never_began and any(p.state in badly for p in open_parents)


def _add_progress(row: RunState, runs: Path) -> None:
    """Reads the last line of metrics.jsonl."""
    line = last_metrics(runs / row.run.run_id / "metrics.jsonl")
    if line is None:
        return
    iteration, loss, speed, total = (
        _number(line.get(key)) for key in ("iteration", "loss", "steps_per_second", "total")
    )
    row.iteration, row.loss = None if iteration is None else int(iteration), loss
    if not row.run.iterations:
        _set_rows(row, int(total or 0))
    if speed and row.iteration is not None:
        row.eta = max(0.0, (row.run.iterations - row.iteration) / speed)


def _number(value: Any) -> float | None:
    """A finite number of a file that anyone may have written."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    return value if good else None


def _set_rows(row: RunState, rows: int) -> None:
    """How many rows a stage goes through is known when it has begun; for a training run steps are known before."""
    row.run = replace(row.run, iterations=rows)


def last_metrics(path: Path) -> dict[str, Any] | None:
    """The last complete line of a metrics file, without reading the rest."""
    try:
        with regular_file(path) as file:
            if file is None:
                return None
            size = file.seek(0, 2)
            file.seek(max(0, size - 16384))
            lines = file.read().splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            return line
    return None


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
