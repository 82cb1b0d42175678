"""What must not be compared unmarked: other validation images, machines, loads, clocks and sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.record.record import write_record
from reports.command import report_command
from tests.reports.made_up import record

SPEC = "rows: {a: {}, b: {}}\ncolumns: [AP_box, time_ratio]\nbaseline: a\n"


def report(folder: Path, name: str, seed: int, images: str = "x", cpu: str = "one", **cost: float) -> None:
    made = record(name, seed, {"bbox": {"AP": 40.0 + seed + (name == "b")}}, cost={"iterations": 10.0, **cost})
    hardware: dict[str, Any] = {"cpu": cpu, "gpu": None}
    made.provenance = {**made.provenance, "fingerprints": {"val_annotations": images}, "hardware": hardware}
    write_record(folder / "runs", made)


def table(folder: Path) -> pd.DataFrame:
    (folder / "spec.yaml").write_text(SPEC)
    made = report_command(str(folder / "spec.yaml"), folder / "runs", ["csv"], folder / "report")
    return pd.read_csv(made / "table.csv").set_index("row")


def test_runs_on_other_validation_images_are_marked_and_not_paired(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        report(tmp_path, "a", seed)
        report(tmp_path, "b", seed, images="y" if seed == 2 else "x")
    line = table(tmp_path).loc["b"]
    assert line["marks"] == "1 other images"
    assert line["AP_box.n"] == 3
    assert line["AP_box.minus_a.n"] == 2


def test_another_limit_of_the_evaluation_is_another_evaluation(tmp_path: Path) -> None:
    for seed in (0, 1):
        report(tmp_path, "a", seed)
        report(tmp_path, "b", seed)
    (path,) = tmp_path.glob("runs/b*1*/record.json")
    content = json.loads(path.read_text())
    content["settings"]["evaluation.limit"] = 20
    path.write_text(json.dumps(content))
    line = table(tmp_path).loc["b"]
    assert line["marks"] == "1 other images"
    assert line["AP_box.minus_a.n"] == 1


def test_offline_stages_are_no_rows(tmp_path: Path) -> None:
    report(tmp_path, "a", 0)
    report(tmp_path, "b", 0)
    before = table(tmp_path)
    made = record("b", 1, {})
    made.settings["stage.name"] = "score"
    write_record(tmp_path / "runs", made)
    pd.testing.assert_frame_equal(table(tmp_path), before)


def test_steps_are_timed_by_the_devices_clock(tmp_path: Path) -> None:
    report(tmp_path, "a", 0, step_cpu_seconds=10.0, train_seconds=90.0, load=0.5)
    report(tmp_path, "b", 0, step_cpu_seconds=15.0, train_seconds=80.0, load=0.6)
    line = table(tmp_path).loc["b"]
    assert line["time_ratio"] == pytest.approx(1.5)
    assert line["marks"] == "single seed"


@pytest.mark.parametrize("other", [{"cpu": "two", "load": 0.5}, {"cpu": "one", "load": 1.0}])
def test_another_machine_or_load_is_marked(tmp_path: Path, other: dict[str, Any]) -> None:
    report(tmp_path, "a", 0, step_cpu_seconds=10.0, load=0.5)
    report(tmp_path, "b", 0, step_cpu_seconds=15.0, **other)
    assert table(tmp_path).loc["b"]["marks"] == "single seed, other machine"


def test_seconds_of_the_wall_and_of_the_processor_have_no_ratio(tmp_path: Path) -> None:
    report(tmp_path, "a", 0, train_seconds=10.0)
    report(tmp_path, "b", 0, step_cpu_seconds=15.0, train_seconds=20.0)
    assert pd.isna(table(tmp_path).loc["b"]["time_ratio"])


def test_one_table_has_published_figures_of_one_source(tmp_path: Path) -> None:
    report(tmp_path, "a", 0)
    (tmp_path / "mine.csv").write_text(
        "table,method,backbone,dataset,AP_box,source\nt,a,r,d,1.0,a paper\nt,b,r,d,2.0,another\n"
    )
    spec = "rows: {a: {published: {method: a}}, b: {published: {method: b}}}\ncolumns: [AP_box]\npublished: t\n"
    (tmp_path / "spec.yaml").write_text(spec)
    with pytest.raises(ValueError, match=r"several sources \(a paper; another\); name one of their tables"):
        report_command(
            str(tmp_path / "spec.yaml"), tmp_path / "runs", ["csv"], tmp_path / "report", tmp_path / "mine.csv"
        )
