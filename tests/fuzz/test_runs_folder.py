"""A folder of runs that anyone can write into: records, manifests and claims, shown and reported whatever they say."""

import contextlib
import io
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.launch import tables
from harness.launch.cost import used
from harness.launch.select import select
from harness.record.manifest import ExpectedRun, Manifest, Submission, manifest_path, read_manifests
from harness.record.reading import Damaged, is_name
from harness.record.record import Record, Status, read_records, record_path, write_record
from harness.run import claim
from reports.collect import collect
from reports.compare import compare_command
from reports.latex import latex
from reports.published import read_published
from reports.spec import read_spec
from reports.table import build_tables, to_frame
from tests.fuzz.hostile import changed, changed_bytes, fuzz

pytestmark = pytest.mark.timeout(600)
FIGURES = {kind: {"AP": 40.0, "APr": 30.0, "APc": None, "APf": 41.5} for kind in ("bbox", "segm")}
PROVENANCE = {
    "code": "abc", "commit": "0" * 40, "fingerprints": {"val_annotations": "f" * 64}, "parents": [], "job": "12",
    "hardware": {"cpu": "x", "gpu": None}, "packages": {"torch": "2.6"}, "restarts": 0,
}  # fmt: skip
COST = {
    "train_seconds": 10.0,
    "iterations": 200,
    "wall_seconds": 12.0,
    "step_cpu_seconds": 9.0,
    "load": 0.1,
    "starts": 1,
}
SETTINGS = {"method": "bsgal", "backbone": "resnet18", "seed": 0, "name": "bsgal", "schedule.iterations": 200}
RUN = "bsgal-resnet18-s0-0123456789"
RECORD = asdict(
    Record(RUN, "bsgal", Status.complete, SETTINGS, FIGURES, {"acceptance_rate": 0.5}, COST, PROVENANCE, ended=5.0)
)
FAILED = {**RECORD, "status": "failed", "failure": {"kind": "out of memory", "message": "x"}}
RESOURCES = {
    "name": "local", "gpus": 0, "nodes": 1, "cpus": 1, "memory_gb": 4.0, "minutes": 5, "parallel": 1, "ranks": 1,
    "signal_seconds": 0, "setup": [], "sbatch": {}, "retries": 0,
}  # fmt: skip
EXPECTED = ExpectedRun(RUN, "bsgal", ["method=bsgal", "seed=0"], {"method": "bsgal", "seed": "0"}, [], RESOURCES, 200)
MANIFEST = asdict(
    Manifest("mini", "x", "mini", [EXPECTED], [Submission("mini-1", "/nowhere", "local", [RUN], ["999999"], 1.0)])
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_record(tmp_path, Record("other-1", "xpaste", Status.complete, {"method": "xpaste", "seed": 0}, FIGURES))
    (tmp_path / RUN / "claim").mkdir(parents=True)
    return tmp_path


def shown_and_reported(runs: Path) -> None:
    """What `status`, `report` and `compare` do, as far as the folder of runs decides it."""
    assert "other-1" in {record.run_id for record in read_records(runs)}
    rows = select(runs, [])
    assert all(is_name(row.run.run_id) for row in rows)
    Console(file=io.StringIO(), markup=False).print(tables.states(rows))
    json.dumps([row.as_json() for row in rows]).encode()
    used(runs, rows)
    spec = read_spec("mini")
    collection = collect(spec, runs)
    built = build_tables(spec, collection, read_published())
    to_frame(spec, built).to_csv(io.StringIO())
    text = latex(spec, built)
    assert "\\input" not in text.replace("`\\input`", "")
    text.encode()


@fuzz(60, changed(RECORD) | changed(FAILED), changed(MANIFEST))
def test_reading(runs: Path, record: Any, manifest: Any) -> None:
    """What the others below read, many times as often."""
    record_path(runs, RUN).write_text(json.dumps(record))
    manifest_path(runs, "mini").parent.mkdir(parents=True, exist_ok=True)
    manifest_path(runs, "mini").write_text(json.dumps(manifest))
    assert [each.run_id for each in read_records(runs)] == [RUN, "other-1"]
    for each in read_manifests(runs):
        assert all(is_name(run.run_id) for run in each.runs)


@fuzz(5, changed(RECORD) | changed(FAILED))
def test_records(runs: Path, content: Any) -> None:
    record_path(runs, RUN).write_text(json.dumps(content))
    manifest_path(runs, "mini").parent.mkdir(parents=True, exist_ok=True)
    manifest_path(runs, "mini").write_text(json.dumps(MANIFEST))
    shown_and_reported(runs)


@fuzz(3, changed_bytes(json.dumps(RECORD).encode()))
def test_bytes_of_records(runs: Path, content: bytes) -> None:
    record_path(runs, RUN).write_bytes(content)
    shown_and_reported(runs)


@fuzz(5, changed(MANIFEST))
def test_manifests(runs: Path, content: Any) -> None:
    manifest_path(runs, "mini").parent.mkdir(parents=True, exist_ok=True)
    manifest_path(runs, "mini").write_text(json.dumps(content))
    read_manifests(runs)
    shown_and_reported(runs)


@fuzz(2, changed(RECORD))
def test_comparisons_stay_in_their_folder(runs: Path, content: Any) -> None:
    record_path(runs, RUN).write_text(json.dumps(content))
    before = os.getcwd()
    shutil.rmtree(runs / "work", ignore_errors=True)
    (runs / "work").mkdir()
    os.chdir(runs / "work")
    try:
        with contextlib.suppress(Damaged):
            folder = compare_command(RUN, "other-1", runs)
            assert folder.resolve().is_relative_to(runs / "work" / "report")
    finally:
        os.chdir(before)


OWNER = {
    "host": "x", "machine": "y", "pid": 1, "process_started": 1.0, "job": None, "cluster": None, "restart": 0,
    "progress": "", "taken": 1.0, "preparing": 0.0, "heartbeat": 5.0, "process_ticks": None,
}  # fmt: skip


@fuzz(15, changed(OWNER), changed_bytes(b"12"), changed_bytes(b'{"iteration": 5, "loss": 0.5}\n'))
def test_claims_and_metrics(runs: Path, content: Any, heartbeat: bytes, metrics: bytes) -> None:
    folder = runs / RUN / "claim" / "000001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "owner.json").write_text(json.dumps(content))
    (folder / "heartbeat").write_bytes(heartbeat)
    (runs / RUN / "metrics.jsonl").write_bytes(metrics)
    claim.owner(runs / RUN)
    claim.lives(runs / RUN)
    claim.fruitless_restarts(runs / RUN, "1")
    claim.silent_seconds(runs / RUN)
    rows = select(runs, [])
    Console(file=io.StringIO(), markup=False).print(tables.states(rows))
