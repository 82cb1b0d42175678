"""States from what lies on disk and what SLURM says, put together case by case."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.launch import queue, state, tables
from harness.launch.follow import logs
from harness.launch.job import cancelled_path
from harness.launch.queue import Job, Look
from harness.launch.select import select
from harness.launch.state import RunState, State, collect
from harness.record.manifest import ExpectedRun, Manifest, Submission, write_manifest
from harness.record.record import Record, Status, write_record
from harness.run.claim import take
from harness.run.provenance import code_fingerprint

PARENT, CHILD = "baseline-s0", "bsgal-s0"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    runs = [
        ExpectedRun(PARENT, "baseline", ["method=baseline"], {"seed": "0"}, iterations=100),
        ExpectedRun(CHILD, "bsgal", ["method=bsgal"], {"seed": "0"}, parents=[PARENT], iterations=100),
    ]
    arrays = [
        Submission("s-1", str(tmp_path), "slurm", [PARENT], ["7"], created=time.time() - 100),
        Submission("s-2", str(tmp_path), "slurm", [CHILD], ["8"], created=time.time() - 100),
    ]
    return Manifest("s", "", None, runs, arrays)


def _collect(
    runs: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, queued: list[Job] | None, ended: list[Job]
) -> tuple[RunState, RunState]:
    """As if squeue and sacct had answered this."""
    look = Look(silence="no answer from squeue") if queued is None else Look({job.job_id: job for job in queued})
    monkeypatch.setattr(queue, "ended", lambda jobs: {job.job_id: job for job in ended})
    parent, child = collect(runs, [manifest], look)
    return parent, child


def test_record_speaks_first(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node failure that SLURM reports does not make a complete run a failed one."""
    write_record(
        tmp_path, Record(PARENT, "baseline", Status.complete, metrics={"bbox": {"AP": 12.5}}, ended=time.time())
    )
    child_job = Job("8", "s-2", "PENDING", "Dependency")
    parent, child = _collect(tmp_path, manifest, monkeypatch, [child_job], [Job("7", "s-1", "NODE_FAIL")])
    assert parent.state is State.complete
    assert parent.metrics == {"bbox": {"AP": 12.5}}
    assert child.state is State.pending


@pytest.mark.parametrize(
    ("word", "expected", "kind"),
    [
        ("OUT_OF_MEMORY", State.failed, "out of memory"),
        ("TIMEOUT", State.failed, "time-out"),
        ("NODE_FAIL", State.failed, "node failure"),
        ("CANCELLED", State.cancelled, "cancelled"),
        ("COMPLETED", State.failed, "never started"),
    ],
)
def test_ends_without_a_record_are_told_apart(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, word: str, expected: State, kind: str
) -> None:
    parent, child = _collect(tmp_path, manifest, monkeypatch, [], [Job("7", "s-1", word)])
    assert (parent.state, parent.failure_kind) == (expected, kind)
    assert child.state in (State.waiting, State.failed)


def test_running_run_shows_progress(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / PARENT
    folder.mkdir()
    lines = [
        {"iteration": i, "total": 100, "loss": 5.0 - i / 100, "steps_per_second": 2.0, "time": time.time()}
        for i in (20, 40)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 60, "lo')
    with take(folder):  # type: ignore[union-attr]
        parent, _child = _collect(tmp_path, manifest, monkeypatch, [Job("7", "s-1", "RUNNING", "n1")], [])
    assert parent.state is State.running
    assert (parent.iteration, parent.loss) == (40, 4.6)
    assert parent.eta == pytest.approx(30, abs=2)
    assert "n1" in parent.reason
    line = tables.progress([parent, dataclasses.replace(parent, state=State.complete)])
    assert re.fullmatch(r"1 of 2 runs done; baseline seed=0 at step 40 of 100, 0:(2[89]|3[0-2]) left", line)
    assert "baseline seed=0 evaluating" in tables.progress([dataclasses.replace(parent, iteration=100)])
    assert "baseline seed=0 starting" in tables.progress([dataclasses.replace(parent, iteration=None)])


def test_failed_record_older_than_the_last_submission_does_not_speak_for_it(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = {"kind": "python error", "message": "Traceback\nValueError: bad"}
    record = Record(PARENT, "baseline", Status.failed, failure=failure, ended=time.time())
    write_record(tmp_path, record)
    parent, child = _collect(tmp_path, manifest, monkeypatch, [], [Job("7", "s-1", "FAILED")])
    assert (parent.state, parent.reason) == (State.failed, "ValueError: bad")
    assert child.state is not State.complete
    write_record(tmp_path, dataclasses.replace(record, ended=time.time() - 1000))
    parent, _ = _collect(tmp_path, manifest, monkeypatch, [], [Job("7", "s-1", "OUT_OF_MEMORY")])
    assert parent.failure_kind == "out of memory"


def test_silent_scheduler_is_no_news(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim of a process elsewhere with a fresh heartbeat counts as running when squeue does not answer."""
    folder = tmp_path / PARENT
    folder.mkdir()
    with take(folder):  # type: ignore[union-attr]
        path = folder / "claim" / "000001" / "owner.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "elsewhere", "job": "7"}))
        parent, _ = _collect(tmp_path, manifest, monkeypatch, None, [])
        assert parent.state is State.running
        parent, _ = _collect(tmp_path, manifest, monkeypatch, [], [])
        assert parent.state is State.interrupted, "squeue knows no such job: its process is gone"


def test_cancelled_and_never_submitted(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.submissions.clear()
    parent, child = _collect(tmp_path, manifest, monkeypatch, [], [])
    assert (parent.state, child.state) == (State.missing, State.waiting)
    assert PARENT in child.reason
    marker = cancelled_path(tmp_path, PARENT)
    marker.parent.mkdir()
    marker.touch()
    parent, child = _collect(tmp_path, manifest, monkeypatch, [], [])
    assert parent.state is State.cancelled
    assert "cancelled" in child.reason


def test_last_metrics_survives_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert state.last_metrics(path) is None
    path.write_text('{"iteration": 1}\n{"iter')
    assert state.last_metrics(path) == {"iteration": 1}


def test_without_accounting_the_jobs_output_says_why_it_was_killed(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    (tmp_path / "7_0_log.err").write_text("step 3\n" + words)
    parent, _ = _collect(tmp_path, manifest, monkeypatch, [], [])
    assert (parent.state, parent.failure_kind) == (State.failed, "time-out")


def test_a_complete_run_of_other_code_is_stale(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id, code in ((PARENT, code_fingerprint()), (CHILD, "of another day")):
        write_record(tmp_path, Record(run_id, run_id, Status.complete, provenance={"code": code}))
    parent, child = _collect(tmp_path, manifest, monkeypatch, [], [])
    assert (parent.stale, child.stale) == (False, True)
    assert parent.state is child.state is State.complete
    assert "other code or defaults" in child.reason
    assert tables.counts([parent, child]) == "2 runs: 2 complete, stale: 1"


def test_a_run_of_two_sweeps_is_shown_once_and_filtered_by_groups_not_given(tmp_path: Path) -> None:
    def run(name: str, schedule: str) -> ExpectedRun:
        return ExpectedRun(name, name, [f"method={name}"], {}, choices={"method": name, "schedule": schedule})

    first = Manifest("first", "", None, [run("baseline", "mini"), run("bsgal", "mini_continue")])
    second = Manifest("second", "", None, [run("xpaste", "mini_continue"), run("baseline", "mini")])
    for manifest in (first, second):
        write_manifest(tmp_path, manifest)
    rows = [(row.sweep, row.run.name) for row in select(tmp_path, [])]
    assert rows == [("first", "baseline"), ("first", "bsgal"), ("second", "xpaste")]
    assert [row.run.name for row in select(tmp_path, ["schedule=mini_continue"])] == ["bsgal", "xpaste"]
    with pytest.raises(UserError, match=r"no run has the setting 'shedule'; did you mean 'schedule'\?"):
        select(tmp_path, ["shedule=mini"])


def test_brackets_in_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ExpectedRun("a-1", "[/x]", [], {"data.pool": "[bold]"})
    tables.console().print(tables.states([RunState("s", run, State.failed, "[/red]")]))
    assert "[/x]" in (shown := capsys.readouterr().out)
    assert "[/red]" in shown


def test_logs_of_no_run_that_fits_are_told_from_logs_not_yet_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest("s", "", None, [ExpectedRun("a-1", "x", ["method=baseline"], {})]))
    write_record(tmp_path, Record("a-1", "x", Status.complete, {"method": "baseline"}))
    with pytest.raises(UserError, match="no run fits s status=failed"):
        logs(tmp_path, ["s", "status=failed"])
    with pytest.raises(UserError, match="not written a log yet"):
        logs(tmp_path, ["s", "status=complete"])
