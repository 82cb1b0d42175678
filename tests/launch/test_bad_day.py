"""Other machines, other processes, other allocations, other users: nothing is killed, requeued or said on a guess."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness import cli
from harness.config import LauncherConfig
from harness.errors import UserError
from harness.launch import control, queue, tables
from harness.launch.changes import apply_changes, avoid_bad_node, cure, read_changes
from harness.launch.exit_codes import exit_code
from harness.launch.local import Local
from harness.launch.queue import Job, Look
from harness.launch.resources import check_resources
from harness.launch.state import RunState, State, collect
from harness.launch.status import Pace
from harness.record.files import share_with_group, write_json
from harness.record.manifest import ExpectedRun, Manifest, Submission, read_manifest, write_manifest
from harness.record.record import FailureKind
from harness.run import claim
from harness.run.failures import PeerLost, as_user_error, kind_of, of_another_rank
from harness.run.scheduler import outside_of_allocations

RUN = "baseline-s0"


def _resources(**changes: object) -> dict[str, object]:
    return dataclasses.asdict(LauncherConfig(**changes)) | {"ranks": 1}  # type: ignore[arg-type]


def _manifest(runs: Path, submission: Submission, **changes: object) -> Manifest:
    run = ExpectedRun(RUN, "baseline", [], {}, resources=_resources(**changes), iterations=10)
    manifest = Manifest("s", "", None, [run], [submission])
    write_manifest(runs, manifest)
    return manifest


# ----------------------------------------------------------------------------------------------- other processes


@pytest.fixture
def bystander() -> object:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_process_of_another_machine_is_left_alone(
    tmp_path: Path, bystander: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Started on A, cancelled on B, where the same number is another process."""
    submission = Submission("s-1", str(tmp_path), "local", [RUN], [str(bystander.pid)], host="A")
    _manifest(tmp_path, submission)
    (tmp_path / RUN).mkdir()
    with claim.take(tmp_path / RUN):  # type: ignore[union-attr]
        _change_owner(tmp_path, pid=bystander.pid, host="A", machine="elsewhere")
        assert control.cancel(tmp_path, [RUN]) == 1
    assert "it runs on A" in capsys.readouterr().out
    assert bystander.poll() is None
    assert not (tmp_path / RUN / "cancelled").exists()


def test_process_of_the_same_number_but_another_start_is_left_alone(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    submission = Submission("s-1", str(tmp_path), "local", [RUN], [str(bystander.pid)], host=socket.gethostname())
    manifest = _manifest(tmp_path, submission)
    (tmp_path / RUN).mkdir()
    with claim.take(tmp_path / RUN):  # type: ignore[union-attr]
        _change_owner(tmp_path, pid=bystander.pid, process_started=1.0)
        (row,) = collect(tmp_path, [manifest])
        assert row.state is State.interrupted
        control.cancel(tmp_path, [RUN])
    assert bystander.poll() is None


def _change_owner(runs: Path, **changes: object) -> None:
    path = runs / RUN / "claim" / "000001" / "owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --------------------------------------------------------------------------------------------- other allocations


def test_allocation_is_hidden_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_NTASKS", "SUBMITIT_EXECUTOR", "RANK"):
        monkeypatch.setenv(key, "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    with outside_of_allocations():
        seen = {key for key in os.environ if key.startswith(("SLURM_", "SUBMITIT_")) or key == "RANK"}
    assert seen == {"SLURM_CONF"}
    assert os.environ["SLURM_MEM_PER_CPU"] == "3"


def test_batch_script_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sbatch --ntasks=3` gives its script SLURM_PROCID; only srun's steps are ranks."""
    from harness.training import distributed

    for key, value in {"SLURM_NTASKS": "3", "SLURM_PROCID": "0", "SLURM_JOB_ID": "5"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    assert distributed.join(1, use_gpu=False).world == 1


# ------------------------------------------------------------------------------------------------- bad numbers


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"minutes": -5}, "minutes"), ({"minutes": 2, "signal_seconds": 120}, "signal_seconds"),
        ({"nodes": 0}, "nodes"),
        ({"gpus": -1}, "gpus"), ({"cpus": 0}, "cpus"), ({"memory_gb": 0}, "memory_gb"), ({"parallel": 0}, "parallel"),
        ({"jobs": 0}, "jobs"), ({"memory_gb": math.nan}, "memory_gb"), ({"memory_gb": math.inf}, "memory_gb"),
        ({"partition": "gpu\n#SBATCH --wrap=reboot"}, "partition"), ({"sbatch": {"hold": "a\nreboot"}}, "sbatch.hold"),
        ({"sbatch": {"a\nreboot": "true"}}, "sbatch"),
    ],
)  # fmt: skip
def test_numbers_that_nobody_means_are_refused(changes: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=f"launcher.{named}"):
        check_resources(_resources(name="slurm", **changes))


def test_local_runs_are_checked_too(tmp_path: Path) -> None:
    run = ExpectedRun(RUN, "baseline", [], {}, resources=_resources(parallel=0))
    with pytest.raises(UserError, match=r"launcher\.parallel"):
        Local(tmp_path, Manifest("s", "", None, [run]), [run], 1, lambda: None)


# ---------------------------------------------------------------------------------------------- SLURM's words


@pytest.mark.parametrize(
    ("text", "expected"),
    [("123", ["123"]), ("123_4", ["123_4"]), ("123_[0-2,7%4]", ["123_0", "123_1", "123_2", "123_7"])],
)
def test_elements_of_an_array(text: str, expected: list[str]) -> None:
    assert list(queue.elements(text)) == expected


def test_step_that_ran_out_of_memory_speaks_for_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "7|s-1|FAILED|137:0|n1\n7.batch|batch|FAILED|137:0|n1\n7.0|python|OUT_OF_MEMORY|0:125|n1\n"
    text += "8_[0-1%4]|s-1|CANCELLED by 0|0:0|None assigned\n"
    monkeypatch.setattr(queue, "ask", lambda *words: queue_answer(text))
    assert {job: found.state for job, found in (queue.ended(["7", "8_1"]) or {}).items()} == {
        "7": "OUT_OF_MEMORY",
        "8_1": "CANCELLED",
    }
    monkeypatch.setattr(queue, "ask", lambda *words: queue_answer("", silence="no answer from sacct"))
    assert queue.ended(["7"]) is None


def queue_answer(text: str, silence: str = "") -> object:
    from harness.run.scheduler import Answer

    return Answer(text, silence=silence)


@pytest.mark.parametrize(
    ("code", "state"), [("1:0", State.failed), ("0:9", State.interrupted), ("137:0", State.interrupted)]
)
def test_exit_code_without_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, state: State) -> None:
    manifest = _manifest(tmp_path, Submission("s-1", str(tmp_path), "slurm", [RUN], ["7"]), name="slurm")
    monkeypatch.setattr(queue, "ended", lambda jobs: {"7": Job("7", "s-1", "FAILED", f"exit code {code}")})
    (tmp_path / RUN).mkdir()
    with claim.take(tmp_path / RUN):  # type: ignore[union-attr]
        _change_owner(tmp_path, job="7")
    (row,) = collect(tmp_path, [manifest], Look())
    assert row.state is state
    assert "exit code 1" in row.reason or "signal 9" in row.reason


# --------------------------------------------------------------------------------------------- disks and ranks


def test_full_disk_is_named_whoever_hits_it(tmp_path: Path) -> None:
    with pytest.raises((OSError, RuntimeError)) as raised:
        torch.save({"weights": torch.zeros(1 << 20)}, "/dev/full")
    for error in (raised.value, OSError(errno.EDQUOT, "Disk quota exceeded")):
        assert kind_of(error) is FailureKind.no_space
        assert f"no space left on {tmp_path}" in str(as_user_error(error, tmp_path))
    assert kind_of(ValueError("unexpected")) is FailureKind.python_error


def test_lost_peer_and_failed_peer_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.run import failures

    monkeypatch.setattr(failures, "PATIENCE_SECONDS", 0.2)
    gone = RuntimeError("[..] Connection closed by peer [127.0.0.1]:1234")
    with claim.take(tmp_path) as held:  # type: ignore[union-attr]
        assert of_another_rank(ValueError("own fault"), tmp_path, held.generation, 0) is None
        assert isinstance(of_another_rank(gone, tmp_path, held.generation, 0), PeerLost)
        claim.leave_words(tmp_path, held.generation, 1, "ValueError: bad")
        assert str(of_another_rank(gone, tmp_path, held.generation, 0)) == "rank 1: ValueError: bad"


def test_seconds_of_all_starts_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSGAL_BENCH_JOB_BEGAN", str(int(time.time()) - 7))
    first = claim.take(tmp_path, heartbeat_seconds=0.1)
    assert first is not None
    time.sleep(0.5)
    _stop_beating(first)  # killed: only its heartbeats tell how long it lived
    path = tmp_path / "claim" / "000001" / "owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 2**30}))
    with claim.take(tmp_path):  # type: ignore[union-attr]
        cost = claim.spent(tmp_path, 10.0)
    assert cost["starts"] == 2
    assert 10.2 < cost["wall_seconds"] < 11.5
    assert cost["allocated_seconds"] - cost["wall_seconds"] == pytest.approx(14, abs=3)


def _stop_beating(held: claim.Claim) -> None:
    held._ended.set()
    held._beat.join()


# -------------------------------------------------------------------------------------------------- other users


def test_group_may_write_where_it_may_write_to_the_folder(tmp_path: Path) -> None:
    ours, mine = tmp_path / "ours", tmp_path / "mine"
    ours.mkdir()
    mine.mkdir()
    ours.chmod(0o2775)
    before = os.umask(0o022)
    try:
        share_with_group(mine)
        write_json(mine / "record.json", {})
        (mine / "log.txt").touch()
        share_with_group(ours)
        write_json(ours / "run" / "record.json", {})
        (ours / "run" / "log.txt").touch()
    finally:
        os.umask(before)
    for path in (ours / "run", ours / "run" / "record.json", ours / "run" / "log.txt"):
        assert path.stat().st_mode & 0o020, path
    for path in (mine / "record.json", mine / "log.txt"):
        assert not path.stat().st_mode & 0o020, path


def _open_to_all(folder: Path) -> None:
    """pytest's folders are its user's alone."""
    for path in itertools.takewhile(lambda path: path != Path(tempfile.gettempdir()), (folder, *folder.parents)):
        path.chmod(0o755)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_second_user_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = Submission("s-1", str(tmp_path), "local", [RUN], ["1"], host=socket.gethostname())
    _manifest(tmp_path, submission)
    _open_to_all(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", "retry", "s", "--runs", str(tmp_path)])
    import zoneinfo  # noqa: F401  (pydantic's, which that user may not be able to import here)

    os.seteuid(65534)
    try:
        with pytest.raises(SystemExit, match=f"error: {tmp_path}.*: Permission denied; ") as raised:
            cli.main()
    finally:
        os.seteuid(0)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_job_is_cancelled_though_its_run_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _manifest(tmp_path, Submission("s-1", str(tmp_path), "slurm", [RUN], ["7"]), name="slurm")
    (tmp_path / RUN).mkdir()
    _open_to_all(tmp_path)
    cancelled: list[str] = []
    monkeypatch.setattr(queue, "look", lambda submissions: Look({"7": Job("7", "s-1", "PENDING", "Priority")}))
    monkeypatch.setattr(queue, "ask", lambda *words: cancelled.extend(words) or queue_answer(""))
    os.seteuid(65534)
    try:
        assert control.cancel(tmp_path, [RUN]) == 0
    finally:
        os.seteuid(0)
    assert cancelled == ["scancel", "7"]
    assert "Permission denied; the run is cancelled nevertheless" in capsys.readouterr().out


def test_job_that_squeue_hides_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PrivateData=jobs shows users their own jobs alone: a colleague's may be there or not."""
    manifest = _manifest(tmp_path, Submission("s-1", str(tmp_path), "slurm", [RUN], ["7"], user="nobody"), name="slurm")
    answers = {"squeue": "", "sacct": "", "scontrol": "PrivateData             = jobs,usage\n"}
    monkeypatch.setattr(queue, "ask", lambda program, *words: queue_answer(answers[program]))
    (row,) = collect(tmp_path, [manifest])
    assert (row.state, row.reason) == (State.unknown, "squeue shows no jobs of others here; ask nobody")
    answers["scontrol"] = "PrivateData             = none\n"
    (row,) = collect(tmp_path, [manifest])
    assert (row.state, row.failure_kind) == (State.failed, FailureKind.never_started.value)


# ------------------------------------------------------------------------------------------- watching and tables


def test_pace_slows_down_while_nothing_changes() -> None:
    run = ExpectedRun(RUN, "baseline", [], {})
    pending, running = ([RunState("s", run, state)] for state in (State.pending, State.running))
    pace = Pace()
    assert [pace.seconds(pending) for _ in range(6)] == [5, 10, 20, 40, 60, 60]
    assert pace.seconds(running) == 5


def test_rows_that_are_not_shown_are_counted() -> None:
    runs = [ExpectedRun(f"run-{n}", "baseline", [], {}) for n in range(150)]
    rows = [RunState("s", run, State.failed if n < 3 else State.pending) for n, run in enumerate(runs)]
    out = Console(width=200, record=True, file=io.StringIO())
    out.print(tables.states(rows))
    printed = out.export_text()
    assert printed.count("run-") == 3
    assert "147 more runs are not shown" in printed


def test_eta_of_a_restarted_run_is_not_zero(tmp_path: Path) -> None:
    """Its last line is from before the restart, as old as its time in the queue."""
    manifest = _manifest(tmp_path, Submission("s-1", str(tmp_path), "local", [RUN], ["1"]))
    (tmp_path / RUN).mkdir()
    line = {"iteration": 4, "loss": 1.0, "steps_per_second": 0.5, "time": time.time() - 3600}
    (tmp_path / RUN / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with claim.take(tmp_path / RUN):  # type: ignore[union-attr]
        (row,) = collect(tmp_path, [manifest])
    assert row.eta == pytest.approx(12)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["complete", "running", "pending"], 0), (["complete", "failed", "unknown"], 1),
        (["unknown", "interrupted"], 69), (["interrupted", "missing"], 75), (["waiting"], 3),
        (["cancelled", "complete"], 3), (["missing"], 3),
    ],
)  # fmt: skip
def test_exit_codes(states: list[str], code: int) -> None:
    run = ExpectedRun(RUN, "baseline", [], {})
    assert exit_code([RunState("s", run, State(state)) for state in states]) == code


# ---------------------------------------------------------------------------------------------- trying again


def test_changes_reach_flags_and_settings() -> None:
    changes, words = read_changes(["mini", "launcher.minutes=9", "+launcher.sbatch.reservation=x", "status=failed"])
    assert words == ["mini", "status=failed"]
    run = ExpectedRun(RUN, "baseline", ["method=baseline", "launcher.minutes=1"], {}, resources=_resources())
    apply_changes(run, changes)
    apply_changes(run, {"sbatch.reservation": "y"})
    assert run.resources["minutes"] == 9
    assert run.resources["sbatch"] == {"reservation": "y"}
    assert run.overrides == ["method=baseline", "launcher.minutes=9", "+launcher.sbatch.reservation=y"]
    for bad in ({"minute": "9"}, {"minutes": "long"}, {"name": "local"}):
        with pytest.raises(UserError, match="launcher"):
            apply_changes(run, bad)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FailureKind.out_of_memory, {"memory_gb": "16.0"}), (FailureKind.timeout, {"minutes": "120"}),
        (FailureKind.node_failure, {}), (FailureKind.python_error, None), (FailureKind.no_space, None),
    ],
)  # fmt: skip
def test_cure_by_cause(kind: FailureKind, expected: dict[str, str] | None) -> None:
    run = ExpectedRun(RUN, "baseline", [], {}, resources=_resources(exclude="n9"))
    row = RunState("s", run, State.failed, failure_kind=kind.value, node="n2")
    assert cure(row) == expected
    avoid_bad_node(run, row)
    assert run.resources["exclude"] == ("n9,n2" if kind is FailureKind.node_failure else "n9")


def test_manifest_of_a_newer_version_is_read(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, Submission("s-1", str(tmp_path), "local", [RUN], ["1"]))
    path = tmp_path / "sweeps" / "s" / "manifest.json"
    content = json.loads(path.read_text())
    content["runs"][0]["colour"] = content["submissions"][0]["colour"] = content["colour"] = "green"
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path, "s") == manifest
