"""Estimates from earlier runs, and sbatch's parameters."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from harness.config import LauncherConfig
from harness.errors import UserError
from harness.launch.dryrun import estimated_hours, minutes_needed, show_plan
from harness.launch.resources import sbatch_parameters
from harness.launch.state import collect
from harness.record.manifest import ExpectedRun, Manifest
from harness.record.record import Record, Status


def _resources(**changes: object) -> dict[str, object]:
    return asdict(LauncherConfig(name="slurm", **changes)) | {"ranks": 1}  # type: ignore[arg-type]


def test_hours_are_those_of_like_runs_by_their_steps() -> None:
    settings = {"method": "bsgal", "backbone": "resnet50", "data.name": "lvis_v1"}
    cost = {"wall_seconds": 3600.0, "iterations": 1000.0, "gpus": 4.0}
    record = Record("x", "bsgal", Status.complete, settings=settings, cost=cost)
    choices: dict[str, str | None] = {"data": "lvis_v1", "method": "bsgal", "backbone": "resnet50"}
    run = ExpectedRun("y", "bsgal", [], {}, resources=_resources(gpus=4), iterations=500, choices=choices)
    assert estimated_hours(run, [record]) == 0.5
    assert minutes_needed(run, [record]) is None, "a record of an older version"
    record.cost |= {"train_seconds": 2400.0, "evaluation_seconds": 120.0}
    assert minutes_needed(run, [record]) == 22
    choices["method"] = "xpaste"
    assert estimated_hours(run, [record]) is minutes_needed(run, [record]) is None


def test_runs_with_equal_parameters_are_counted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices: dict[str, str | None] = {"data": "mini", "method": "bsgal", "backbone": "resnet18"}
    runs = [
        ExpectedRun(f"run-{n}", "bsgal", [], {}, resources=_resources(minutes=minutes), choices=choices)
        for n, minutes in enumerate((30, 90, 30))
    ]
    show_plan(runs, {row.run.run_id: row for row in collect(tmp_path, [Manifest("s", "", None, runs)])}, tmp_path)
    printed = capsys.readouterr().out
    assert "sbatch, 2 runs: time=30 nodes=1" in printed
    assert "sbatch, 1 runs: time=90 nodes=1" in printed
    assert "3 of 3 runs to do; no earlier run tells how long they take" in printed


def test_parameters_name_what_is_given_and_nothing_else() -> None:
    parameters = sbatch_parameters(_resources(partition="gpu", sbatch={"hold": "True", "mail-type": "FAIL"}, gpus=1))
    assert parameters["partition"] == "gpu"
    assert parameters["additional_parameters"] == {"requeue": True, "hold": True, "mail-type": "FAIL"}
    assert parameters["mem"] == "8192MB"
    assert "qos" not in parameters
    assert "gpus_per_node" not in sbatch_parameters(_resources())


@pytest.mark.parametrize(("nodes", "gpus", "ranks"), [(2, 0, 3), (1, 2, 1), (2, 2, 2)])
def test_ranks_that_do_not_fit_are_refused(nodes: int, gpus: int, ranks: int) -> None:
    with pytest.raises(UserError, match="batch_per_rank"):
        sbatch_parameters({**_resources(nodes=nodes, gpus=gpus), "ranks": ranks})
