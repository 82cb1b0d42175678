"""What makes a record stale: changed sources and changed defaults, which rename no run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reports.collect import collect
from reports.spec import read_spec

ROOT = Path(__file__).parents[2]
# Leaves the record of a run that was not trained, unless there is one; prints the run's name.
RUN = """
import sys, time
from pathlib import Path
from harness.compose import compose
from harness.record.record import Record, Status, read_record, write_record
from harness.run.claim import take
from harness.run.identity import identify
from harness.run.provenance import provenance

runs = Path("runs")
for override in sys.argv[1:]:
    composed = compose([override])
    run_id = identify(composed.config)
    if read_record(runs, run_id) is None:
        with take(runs / run_id):
            made = {"settings": composed.settings, "provenance": provenance(), "ended": time.time()}
            write_record(runs, Record(run_id, "baseline", Status.complete, **made))
    print(run_id)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources, to be changed."""
    for package in ("harness", "methods", "backbones"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def python(copy: Path, *arguments: str) -> str:
    """What a command prints with the copied sources, in the folder beside them."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=copy.parent, env=environment, text=True, check=True, capture_output=True).stdout


@pytest.mark.usefixtures("mini_root")
def test_a_changed_default_keeps_the_name_and_makes_the_record_stale(copy: Path) -> None:
    def stale() -> dict[str, bool]:
        rows = json.loads(python(copy, "-m", "harness.cli", "status", "--json"))
        return {row["run_id"]: row["stale"] for row in rows}

    (first,) = python(copy, "-c", RUN, "seed=0").split()
    assert stale() == {first: False}
    change(copy / "harness/config.py", "    nms: float = 0.5\n", "    nms: float = 0.6\n")
    assert stale() == {first: True}

    again, second = python(copy, "-c", RUN, "seed=0", "seed=1").split()
    assert again == first
    (copy / "spec.yaml").write_text("rows: {baseline: {}}\n")
    found = collect(read_spec(str(copy / "spec.yaml")), copy.parent / "runs")
    marks = {entry["run_id"]: entry["stale"] for entry in found.runs_of("baseline")}
    assert marks == {first: "code changed", second: ""}


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("harness/conf/detector/small.yaml", "detections: 50", "detections: 60", True),
        ("harness/conf/run.yaml", "  - method: baseline", "  - method: xpaste", True),
        ("harness/conf/launcher/slurm.yaml", "minutes: 1440", "minutes: 1441", False),
        ("harness/run/scheduler.py", "squeue", "squeue ", False),
    ],
)
def test_configuration_files_count_and_where_a_run_is_executed_does_not(
    file: str, old: str, new: str, counts: bool, copy: Path
) -> None:
    code = "from harness.run.provenance import code_fingerprint; print(code_fingerprint())"
    before = python(copy, "-c", code)
    path = copy / file
    path.write_text(path.read_text().replace(old, new))
    assert path.read_text() != (ROOT / file).read_text()
    assert (python(copy, "-c", code) != before) is counts
