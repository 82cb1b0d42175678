"""Claims: one holder at a time, whoever starts when."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.launch import job
from harness.launch.state import SILENT_SECONDS
from harness.record.manifest import ExpectedRun
from harness.record.record import Status, read_record
from harness.run import claim
from harness.run.claim import ClaimLost, take

HOLD = """
import sys, time
from pathlib import Path
from harness.run.claim import take
held = take(Path(sys.argv[1]), heartbeat_seconds=0.1)
print(held is not None, flush=True)
time.sleep(60)
"""


def _holder(run: Path, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    with process:  # closes what it wrote to
        process.kill()


def test_second_starter_gets_nothing_until_the_first_has_released(tmp_path: Path) -> None:
    with take(tmp_path) as first:  # type: ignore[union-attr]
        assert first.generation == 1
        assert take(tmp_path) is None
        first.check()
    second = take(tmp_path)
    assert second is not None
    assert second.generation == 2
    with pytest.raises(ClaimLost):
        first.check()
    second.release()
    second.release()


def _try(run: Path, barrier, winners) -> None:  # type: ignore[no-untyped-def]
    barrier.wait()
    held = take(run)
    if held is not None:
        winners.put(held.generation)
        time.sleep(1.0)
        os._exit(0)  # dies without releasing


def test_of_many_starters_at_once_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for generation in (1, 2, 3):
        barrier, winners = context.Barrier(8), context.Queue()
        starters = [context.Process(target=_try, args=(tmp_path, barrier, winners)) for _ in range(8)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        assert winners.get(timeout=5) == generation
        assert winners.empty()


def test_killed_owner_on_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    assert take(tmp_path) is None
    _kill(process)
    started = time.monotonic()
    follower = take(tmp_path)
    assert follower is not None
    assert follower.generation == 2
    assert time.monotonic() - started < 1.0
    follower.release()


def _pretend_elsewhere(run: Path) -> None:
    """As if the owner's processes were not to be seen from here."""
    path = run / "claim" / "000001" / "owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "elsewhere"}))


def test_owner_elsewhere_lives_as_long_as_its_heartbeat_counts(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    _pretend_elsewhere(tmp_path)
    assert take(tmp_path, patience=5.0) is None
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # until all its threads have stopped: a heartbeat may have been under way
    follower = take(tmp_path, patience=1.0)
    assert follower is not None
    assert follower.generation == 2
    follower.check()
    process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    follower.check()  # the woken owner changes nothing
    _kill(process)
    follower.release()


def test_requeued_job_takes_over_its_own_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_JOB_ID": "71", "SLURM_CLUSTER_NAME": "c"}
    process = _holder(tmp_path, **job)
    for key, value in job.items():
        monkeypatch.setenv(key, value)
    assert take(tmp_path) is None  # the same job started twice
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    follower = take(tmp_path)
    assert follower is not None
    assert follower.generation == 2
    _kill(process)
    follower.release()


@pytest.mark.parametrize(
    "sign_of_progress", ["checkpoint/000000004/shared.pt", "evaluation/final/rank0of1-000000-000040.parquet"]
)
def test_restarts_are_counted_until_something_appears(
    sign_of_progress: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    for restart in range(3):
        assert claim.fruitless_restarts(tmp_path, "71") == restart
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        held = take(tmp_path)
        assert held is not None
        held.release()
    assert claim.fruitless_restarts(tmp_path, "72") == 0
    piece = tmp_path / sign_of_progress
    piece.parent.mkdir(parents=True)
    piece.write_text("1")
    assert claim.fruitless_restarts(tmp_path, "71") == 0


def test_damaged_claim_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "claim" / "000004").mkdir(parents=True)
    (tmp_path / "claim" / "000004" / "owner.json").write_text("{")
    held = take(tmp_path)
    assert held is not None
    assert held.generation == 5
    held.release()


def test_state_shown_without_waiting(tmp_path: Path) -> None:
    assert claim.held(tmp_path, lambda job: None) is False
    assert claim.owner(tmp_path) is None
    assert claim.silent_seconds(tmp_path) is None
    with take(tmp_path):  # type: ignore[union-attr]
        assert claim.held(tmp_path, lambda job: None) is True
        found = claim.owner(tmp_path)
        assert found is not None
        assert found.pid == os.getpid()
        assert 0.0 <= (claim.silent_seconds(tmp_path) or 0.0) < 5.0
    assert claim.held(tmp_path, lambda job: None) is False


def test_run_that_never_gets_on_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five starts of one job without a new checkpoint: recorded as a time-out instead of a sixth."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    for restart in range(job.MOST_FRUITLESS_STARTS):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        held = take(tmp_path / "a-run")
        assert held is not None
        held.release()
    with pytest.raises(SystemExit, match="no progress"):
        job.start(ExpectedRun("a-run", "baseline", [], {}), str(tmp_path))
    record = read_record(tmp_path, "a-run")
    assert record is not None
    assert record.status is Status.failed
    assert record.failure is not None
    assert record.failure["kind"] == "time-out"


def test_clocks_that_are_set_change_no_owner(tmp_path: Path) -> None:
    """psutil tells a process's start by the clock: set by an hour, it would take the owner for another process."""
    process = _holder(tmp_path)
    path = tmp_path / "claim" / "000001" / "owner.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "process_started": content["process_started"] - 3600}))
    assert claim.held(tmp_path, lambda job: None) is True
    assert take(tmp_path) is None
    path.write_text(json.dumps({**content, "process_ticks": content["process_ticks"] + 1}))  # its number, used anew
    assert claim.held(tmp_path, lambda job: None) is False
    _kill(process)


def test_a_heartbeat_from_the_future_is_no_life(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    _kill(process)
    _pretend_elsewhere(tmp_path)
    heartbeat = tmp_path / "claim" / "000001" / "heartbeat"
    os.utime(heartbeat, (time.time() + 3.15e7,) * 2)
    assert claim.held(tmp_path, lambda job: None) is None
    assert (claim.silent_seconds(tmp_path) or 0.0) > SILENT_SECONDS
