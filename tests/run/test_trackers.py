"""Figures in Weights & Biases and MLflow, by the real packages, offline."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import UserError
from harness.record.record import Record, Status, read_record
from harness.run.run import execute
from tests.small_training import TINY

RUN = [*TINY, "schedule.iterations=4", "schedule.lr=0.002", "evaluation.every=2"]


def run(runs: Path, *further: str) -> Record:
    outcome = execute([*RUN, f"runs_dir={runs}", *further])
    assert outcome.status is Status.complete
    record = read_record(runs, outcome.run_id)
    assert record is not None
    return record


@pytest.mark.usefixtures("mini_root")
def test_mlflow_has_the_figures_of_every_logged_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient()
    record = run(tmp_path / "runs", "trackers=[mlflow]")
    experiment = client.get_experiment_by_name("bsgal-bench")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.data.tags["run_id"] == record.run_id
    assert kept.data.params["data.name"] == "mini"
    assert [point.step for point in client.get_metric_history(kept.info.run_id, "loss")] == [1, 2, 3, 4]
    history = client.get_metric_history(kept.info.run_id, "bbox/AP")
    assert [(point.step, point.value) for point in history] == [(p["iteration"], p["bbox"]["AP"]) for p in record.curve]
    assert kept.info.status == "FINISHED"


@pytest.mark.usefixtures("mini_root")
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    record = run(tmp_path / "runs", "trackers=[wandb]")
    assert wandb.run is None, "it has ended"
    (kept,) = (tmp_path / "runs" / record.run_id / "wandb").glob(f"offline-run-*/run-{record.run_id}.wandb")
    assert b"loss_mask" in kept.read_bytes()
    assert b"segm/APr" in kept.read_bytes()


@pytest.mark.usefixtures("mini_root")
def test_a_package_that_is_not_there_is_named_and_one_that_fails_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed; pip install 'bsgal-bench\[wandb\]'"):
        execute([*RUN, f"runs_dir={tmp_path}", "trackers=[wandb]"])

    def nobody() -> None:
        raise OSError("no server answers")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=nobody))
    record = run(tmp_path, "trackers=[mlflow]")
    assert "mlflow is switched off: no server answers" in (tmp_path / record.run_id / "log.txt").read_text()
    assert len(list(tmp_path.glob("*/record.json"))) == 1, "trackers are no part of a run's name"
