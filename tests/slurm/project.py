"""A user's folder with a sweep in it, and the command `harness` run there against a test cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record.manifest import ExpectedRun, Submission, read_manifest
from harness.record.record import Record, read_record
from tests.command_line import harness
from tests.slurm.cluster import Cluster
from tests.small_training import TINY

ROOT = Path(__file__).parents[2]
# A few steps of real training; small, since twelve such runs share the cores of a test machine.
QUICK = ["data=mini", "detector=small", *TINY, "schedule.checkpoint_every=4", "evaluation.limit=4"]
RESOURCES = ["launcher=slurm", "launcher.gpus=0", "launcher.cpus=2", "launcher.memory_gb=2", "launcher.minutes=30"]


@dataclass
class Project:
    folder: Path
    cluster: Cluster

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def write_sweep(self, name: str, text: str) -> None:
        (self.folder / "sweeps").mkdir(exist_ok=True)
        defaults = ", ".join(QUICK)
        (self.folder / "sweeps" / f"{name}.yaml").write_text(f"defaults: [{defaults}]\n{text}")

    @property
    def environment(self) -> dict[str, str]:
        environment = {**self.cluster.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["BSGAL_BENCH_CACHE"] = os.environ["BSGAL_BENCH_CACHE"]
        return environment | {"PATH": f"{self.folder / 'shims'}:{environment['PATH']}"}

    def shim(self, program: str, script: str) -> None:
        """Puts a shell script in the place of one of SLURM's commands; `real` runs the command itself."""
        path = self.folder / "shims" / program
        path.parent.mkdir(exist_ok=True)
        real = shutil.which(program, path=self.cluster.environment["PATH"])
        path.write_text(f'#!/bin/bash\nreal() {{ {real} "$@"; }}\n{script}\n')
        path.chmod(0o755)

    def silence(self, *programs: str) -> None:
        """From now on these commands find no controller."""
        for program in programs:
            self.shim(program, 'echo "error: Unable to contact slurm controller (connect failure)" >&2; exit 1')

    def unshim(self) -> None:
        shutil.rmtree(self.folder / "shims", ignore_errors=True)

    def job_names(self) -> list[str]:
        """The names of all jobs of this project that wait or run, an element of an array each."""
        listed = self.cluster.command("squeue", "--noheader", "--array", "--states=PENDING,RUNNING", "--format=%j")
        own = {s.job_name for path in self.runs.glob("sweeps/*") for s in _submissions(self.runs, path.name)}
        return [name for name in listed.split() if name in own]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "harness.cli", *words], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def harness(self, *words: str, code: int | None = 0) -> str:
        """What a command prints; fails unless it ends with `code`, None for any."""
        ended = harness(*words, cwd=self.folder, environment=self.environment)
        if code is not None and ended.code != code:
            raise AssertionError(f"harness {' '.join(words)} ended with {ended.code}:\n{ended.out}{ended.err}")
        return ended.out + ended.err

    def sweep(self, name: str, *overrides: str, code: int | None = 0) -> str:
        return self.harness("sweep", name, *RESOURCES, *overrides, code=code)

    def states(self, *words: str) -> dict[str, dict[str, Any]]:
        """`harness status --json` by run_id."""
        return {row["run_id"]: row for row in json.loads(self.harness("status", *words, "--json", code=None))}

    def wait(self, *words: str, seconds: float = 240.0) -> dict[str, dict[str, Any]]:
        """Until nothing runs or is queued any more; the states then."""
        end = time.monotonic() + seconds
        while True:
            # The queue is asked often and at next to no cost; `status` then says what has become of the runs.
            look = time.monotonic() + 5
            while self.job_names() and time.monotonic() < look:
                time.sleep(0.5)
            states = self.states(*words)
            if not any(row["state"] in ("running", "pending") for row in states.values()):
                return states
            if time.monotonic() > end:
                raise TimeoutError(f"{self.harness('status', *words, code=None)}\n{self.output()}")
            time.sleep(0.2)

    def run(self, sweep: str, place: int = 0) -> ExpectedRun:
        manifest = read_manifest(self.runs, sweep)
        assert manifest is not None
        return manifest.runs[place]

    def records(self, sweep: str) -> dict[str, Record]:
        manifest = read_manifest(self.runs, sweep)
        assert manifest is not None
        found = {run.run_id: read_record(self.runs, run.run_id) for run in manifest.runs}
        return {run_id: record for run_id, record in found.items() if record is not None}

    def output(self) -> str:
        """The end of what all jobs printed, for a failed test."""
        paths = sorted(self.runs.glob("sweeps/*/jobs/*/*log.err"))
        return "\n".join(f"== {path.name}\n" + path.read_text(errors="replace")[-1000:] for path in paths)


def _submissions(runs: Path, sweep: str) -> list[Submission]:
    manifest = read_manifest(runs, sweep)
    return manifest.submissions if manifest else []
