"""`harness cancel` and `harness retry`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import psutil

from harness.errors import UserError
from harness.launch import queue, tables
from harness.launch.changes import apply_changes, avoid_bad_node, read_changes, setup_lines
from harness.launch.exit_codes import FAILED
from harness.launch.job import cancelled_path, has_failed, is_cancelled
from harness.launch.select import select
from harness.launch.state import ACTIVE, RunState, State, jobs_of, local_process
from harness.launch.submit import submit_runs
from harness.launch.trust import Code
from harness.record.files import write_atomically
from harness.record.manifest import ExpectedRun, Manifest, Submission, read_manifest, read_manifests
from harness.record.record import Status, record_as_found
from harness.run import claim
from harness.run.scheduler import ask

MOST_NAMES = 3


def cancel(runs_dir: Path, words: Sequence[str]) -> int:
    """Cancels those of the selected runs that wait or run. Their checkpoints stay; `retry` resumes from them.

    Runs about which the scheduler said nothing are also cancelled, if it answers now. The exit code is 1 when
    something is not known to be cancelled. Raises UserError for words that name nothing.
    """
    if not words:
        raise UserError("say what to cancel: a sweep, a run, or filters such as method=bsgal")
    manifests = read_manifests(runs_dir)
    look = queue.look(submission for manifest in manifests for submission in manifest.submissions)
    rows = [row for row in select(runs_dir, words, look) if row.state in (*ACTIVE, State.unknown)]
    jobs = {manifest.sweep: jobs_of(manifest, look) for manifest in manifests}
    last = {row.run.run_id: own[-1] for row in rows if (own := jobs.get(row.sweep, {}).get(row.run.run_id))}
    on_slurm = [row for row in rows if _is_on_slurm(row, last.get(row.run.run_id))]
    chosen = {row.run.run_id for row in rows}
    beside = [row for row in on_slurm if row.job and _others_need_its_job(runs_dir, last.get(row.run.run_id), chosen)]
    refused = queue.cancel([row.job for row in on_slurm if row.job and row not in beside], look)
    kept: dict[str, str] = {}
    for row in [row for row in rows if row not in beside]:
        if row not in on_slurm:
            why = _stop_process(runs_dir, row, last.get(row.run.run_id))
        else:
            why = refused.get(row.job, "") if row.job else f"it has no known job: {row.reason}"
        if why:
            kept[row.run.run_id] = why
        else:
            _mark(runs_dir, row)
    kept |= _leave_jobs(runs_dir, beside)
    out = tables.console()
    out.print(f"cancelled {len(rows) - len(kept)} runs", highlight=False)
    for why in dict.fromkeys(kept.values()):
        names = [run_id for run_id, reason in kept.items() if reason == why]
        listed = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
        out.print(f"not cancelled: {len(names)} runs ({listed}): {why}", highlight=False, markup=False)
    return FAILED if kept else 0


def retry(runs_dir: Path, words: Sequence[str], trusted: Sequence[Path] = ()) -> int:
    """Resubmits the selected runs that failed, were cancelled or stopped, and those that wait for them.

    Words that begin with `launcher.` are not filters: they change the resources of the submitted runs, such as
    `harness retry mini status=failed launcher.memory_gb=64 launcher.sbatch.reservation=x`. Nodes on which runs failed
    are avoided. Code that the manifest names is executed where it is among the `trusted` files, or the lines of a
    launcher.setup that is given. Raises UserError.
    """
    changes, words = read_changes(words)
    named = Code.typed(trusted, setup_lines(changes))
    rows = select(runs_dir, words)
    for row in rows:
        if row.state is State.unknown:
            raise UserError(f"{row.run.run_id} may already be submitted, so nothing is submitted: {row.reason}")
    chosen = [row for row in rows if row.state not in (State.complete, *ACTIVE)]
    if not chosen:
        tables.console().print("nothing to retry: every selected run is complete or under way", highlight=False)
        return 0
    code = 0
    for sweep in dict.fromkeys(row.sweep for row in chosen):
        if not sweep:
            raise UserError("restart a run that belongs to no sweep with `harness run` and its overrides")
        wanted = {row.run.run_id for row in chosen if row.sweep == sweep}
        manifest = read_manifest(runs_dir, sweep)
        failed = {row.run.run_id: row for row in chosen if row.sweep == sweep}
        wanted |= _descendants(manifest.runs if manifest else [], wanted)

        def updated(
            earlier: Manifest | None,
            wanted: set[str] = wanted,
            failed: dict[str, RunState] = failed,
            sweep: str = sweep,
        ) -> Manifest:
            if earlier is None:
                raise UserError(f"the manifest of sweep {sweep} is gone; `harness sweep {sweep}` writes it again")
            for run in earlier.runs:
                if run.run_id in wanted:
                    apply_changes(run, changes)
                if run.run_id in failed:
                    avoid_bad_node(run, failed[run.run_id])
            return earlier

        code = max(code, submit_runs(runs_dir, sweep, updated, wanted, named))
    return code


def _is_on_slurm(row: RunState, last: tuple[Submission, str] | None) -> bool:
    """By the launcher that it was submitted to; its settings may have changed since."""
    return (last[0].launcher if last else row.run.resources.get("name")) == "slurm"


def _others_need_its_job(runs_dir: Path, last: tuple[Submission, str] | None, chosen: set[str]) -> bool:
    """Whether runs that are not to be cancelled share a run's job and are still active in it."""
    if last is None:
        return False
    submission, own = last
    others = {run_id for run_id, job in zip(submission.run_ids, submission.job_ids, strict=False) if job == own}
    return any(not _is_over(runs_dir, run_id, own) for run_id in others - chosen)


def _is_over(runs_dir: Path, run_id: str, job: str) -> bool:
    record = record_as_found(runs_dir, run_id)
    complete = record is not None and record.status is Status.complete
    return complete or is_cancelled(runs_dir, run_id, job) or has_failed(record, job)


def _leave_jobs(runs_dir: Path, rows: Sequence[RunState]) -> dict[str, str]:
    """Cancels runs in jobs that continue without them; returns why that failed, by run.

    All runs of such a job save themselves, and it is queued again for those that are not marked.
    """
    for row in rows:
        _mark(runs_dir, row)
    refused: dict[str, str] = {}
    for job in dict.fromkeys(row.job for row in rows if row.job and row.state is not State.pending):
        answer = ask("scancel", "--signal=USR2", job)
        if answer.silence:
            refused |= {row.run.run_id: answer.silence for row in rows if row.job == job}
    for run_id in refused:
        cancelled_path(runs_dir, run_id).unlink(missing_ok=True)
    return refused


def _mark(runs_dir: Path, row: RunState) -> None:
    """Writes the marker that keeps a stopped job from queueing itself again."""
    marker = cancelled_path(runs_dir, row.run.run_id)
    try:
        with write_atomically(marker) as temporary:
            temporary.write_text(row.job or "")
    except OSError as error:
        tables.console().print(f"{marker}: {error.strerror}; the run is cancelled nevertheless", highlight=False)


def _stop_process(runs_dir: Path, row: RunState, last: tuple[Submission, str] | None) -> str:
    """Stops a run on this machine; returns why it could not be stopped, empty if it was.

    Only a process that is known to be the run's is sent a signal: by machine and start time as its claim has them, or
    by its command line.
    """
    owner = claim.owner(runs_dir / row.run.run_id)
    try:
        process = owner.process() if owner else None
        process = process or (local_process(*last) if last else None)
        if process is not None:
            process.terminate()
            return ""
    except psutil.AccessDenied:
        return "its process is another user's"
    except psutil.NoSuchProcess:
        return ""
    host = owner.host if owner and not owner.is_here else last[0].host if last else ""
    if host and host != socket.gethostname():
        return f"it runs on {host}; `harness cancel {row.run.run_id}` there stops it"
    return "its process cannot be seen from here"


def _descendants(runs: Sequence[ExpectedRun], roots: set[str]) -> set[str]:
    found = set(roots)
    for run in runs:  # parents come before their children
        if found.intersection(run.parents):
            found.add(run.run_id)
    return found - roots
