"""A sweep on this machine, by the command line: runs, resumes after a kill, stops on a signal, tells failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from harness.launch import local
from harness.record.manifest import read_manifest
from harness.record.record import Status, read_record
from harness.run import claim
from tests.command_line import harness
from tests.small_training import TINY

ROOT = Path(__file__).parents[2]
# Trains on until it is stopped, and leaves the cores to other tests meanwhile.
PATIENT = '''
import time
from dataclasses import dataclass

import torch

from methods import register
from methods.contract import Method, Selection


@register("patient")
@dataclass
class Patient(Method):
    """Keeps everything, slowly."""

    def select(self, step):
        time.sleep(0.3)
        return Selection(keep=torch.ones_like(step.has_pasted))
'''
SWEEP = f"""
defaults: [data=mini, detector=small, {", ".join(TINY)}, schedule.checkpoint_every=2, 'method_paths=[patient.py]']
grid:
  - {{name: baseline, method: baseline, schedule: mini, schedule.iterations: 4}}
  - {{name: continued, method: patient, schedule: mini_continue, schedule.iterations: 1000}}
after:
  - {{when: {{name: continued}}, init_from: {{name: baseline}}}}
"""


@pytest.fixture
def project(tmp_path: Path, mini_root: Path) -> Path:
    (tmp_path / "patient.py").write_text(PATIENT)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "two.yaml").write_text(SWEEP)
    return tmp_path


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _start(project: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        cwd=project,
        env=_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and so would the tests' children when the suite is one.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def _harness(project: Path, *words: str) -> tuple[int, str]:
    ended = harness(*words, cwd=project, environment=_environment())
    return ended.code, ended.out + ended.err


def _states(project: Path) -> dict[str, str]:
    rows = json.loads(_harness(project, "status", "two", "--json")[1])
    return {row["name"]: row["state"] for row in rows}


def _wait_for(path: Path, pattern: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not list(path.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {path}"
        time.sleep(0.2)


def test_sweep_is_stopped_by_signals_and_goes_on_where_it_was(project: Path) -> None:
    sweep = _start(project, "sweep", "two")
    runs = project / "runs"
    _wait_for(runs, "sweeps/two/manifest.json")
    manifest = read_manifest(runs, "two")
    assert manifest is not None
    _first, second = (run.run_id for run in manifest.runs)
    _wait_for(runs, f"{second}/checkpoint/0*")
    assert _states(project) == {"baseline": "complete", "continued": "running"}
    code, printed = _harness(project, "sweep", "two")
    assert code == 1
    assert "is already working on sweep two" in printed

    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    printed, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 75
    assert "resumes from the checkpoints" in printed
    record = read_record(runs, second)
    assert record is not None
    assert record.status is Status.interrupted
    assert _states(project) == {"baseline": "complete", "continued": "interrupted"}

    again = _resumed(project, runs / second, times=1)
    again.terminate()  # as `kill` does, to the sweep's process alone
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 75
    assert "resumes from the checkpoints" in printed
    assert _states(project) == {"baseline": "complete", "continued": "interrupted"}

    again = _resumed(project, runs / second, times=2)
    owner = claim.owner(runs / second)
    assert owner is not None
    run = psutil.Process(owner.pid)
    run.parent().kill()  # type: ignore[union-attr]  # what runs are forked from
    time.sleep(3 * local.POLL_SECONDS)
    assert again.poll() is None
    again.kill()
    again.communicate(timeout=60)
    assert _states(project)["continued"] == "running"
    assert _harness(project, "cancel", "name=continued")[0] == 0
    psutil.wait_procs([run], timeout=60)
    assert _states(project)["continued"] == "cancelled"


def _resumed(project: Path, folder: Path, times: int) -> subprocess.Popen[str]:
    """The sweep started again, once its run has gone on from a checkpoint for so many times in all."""
    sweep = _start(project, "sweep", "two")
    end = time.monotonic() + 120
    while (folder / "log.txt").read_text().count("resuming from step") < times:
        assert time.monotonic() < end
        time.sleep(0.2)
    return sweep


def test_failed_run_is_told_and_its_child_waits(project: Path) -> None:
    code, printed = _harness(project, "sweep", "two", "launcher.gpus=1") if not local.visible_gpus() else (1, "GPUs")
    assert code == 1
    assert "GPUs" in printed
    (project / "pool.json").write_text("[]")
    path = project / "sweeps" / "two.yaml"
    path.write_text(
        SWEEP.replace("{name: baseline, method: baseline,", "{name: baseline, method: xpaste, data.pool: pool.json,")
    )
    code, printed = _harness(project, "sweep", "two")
    assert code == 1
    states = _states(project)
    assert states == {"baseline": "failed", "continued": "waiting"}, printed
    assert "pool.json" in _harness(project, "logs", "name=baseline")[1]


def test_visible_gpus_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert local.visible_gpus() == [2, 3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.visible_gpus() == []
