"""What is done with a trained run's weights: evaluated as a file, converted, gone on from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from harness.errors import UserError
from harness.record.record import Record, Status, read_record
from harness.run.run import execute
from harness.training import checkpoint
from harness.weights.file import read_weights
from tests.command_line import harness
from tests.small_training import TINY, Trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, trained_baseline: Trained) -> Path:
    return shutil.copytree(trained_baseline.runs, tmp_path_factory.mktemp("runs"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def trained(trained_baseline: Trained) -> Record:
    return trained_baseline.record


def _run(runs: Path, *overrides: str) -> Record:
    outcome = execute([*TINY, f"runs_dir={runs}", "evaluation.save_detections=true", *overrides])
    assert outcome.status is Status.complete
    record = read_record(runs, outcome.run_id)
    assert record is not None
    return record


def _final(runs: Path, record: Record) -> dict[str, dict[str, torch.Tensor]]:
    content = checkpoint.load_final(runs / record.run_id / "checkpoint", CPU)
    assert content is not None
    return content


@pytest.mark.parametrize("layout", ["native", "detectron2"])
def test_given_weights_are_evaluated_to_the_trained_runs_figures(
    layout: str, runs: Path, trained: Record, tmp_path: Path
) -> None:
    """Of model and model_ema the average is taken, as in the run itself."""
    file = runs / trained.run_id / "checkpoint" / "final.pt"
    if layout == "detectron2":
        ended = harness("weights", "convert", str(file), str(tmp_path / "model.pth"), cwd=tmp_path)
        assert ended.code == 0, ended.err
        file = tmp_path / "model.pth"
    record = _run(runs, "train=false", f"weights={file}")
    assert record.name == file.stem
    assert record.metrics == trained.metrics
    own, theirs = (pd.read_parquet(runs / r.run_id / "detections.parquet") for r in (record, trained))
    assert len(own) > 0
    pd.testing.assert_frame_equal(own, theirs, check_exact=True)
    assert record.run_id != trained.run_id
    assert "weights" in record.provenance["fingerprints"]
    assert record.settings["train"] is False
    assert not (runs / record.run_id / "checkpoint").exists()
    assert (runs / record.run_id / "per_category.parquet").is_file()


def test_a_name_puts_given_weights_into_a_tables_row(runs: Path, trained: Record, tmp_path: Path) -> None:
    file = runs / trained.run_id / "checkpoint" / "final.pt"
    record = _run(runs, "train=false", f"weights={file}", "name=as_published", "method=xpaste", "data.pool=clean")
    assert record.name == "as_published"
    assert record.settings["method"] == "xpaste"


def test_a_run_goes_on_from_the_raw_weights(runs: Path, trained: Record) -> None:
    """At a rate of nothing, nothing moves but batch norm's statistics."""
    child = _run(runs, f"init_from={trained.run_id}", "schedule.iterations=1", "schedule.lr=0", "schedule.ema=null")
    parent, weights = _final(runs, trained), _final(runs, child)["model"]
    names = [name for name in weights if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(weights[name], parent["model"][name]) for name in names)
    assert any(not torch.equal(weights[name], parent["model_ema"][name]) for name in names)


def test_training_from_a_file_starts_from_its_raw_weights(runs: Path, trained: Record, tmp_path: Path) -> None:
    """As going on from a run does; evaluating the file takes the average."""
    file = runs / trained.run_id / "checkpoint" / "final.pt"
    child = _run(runs, f"weights={file}", "schedule.iterations=1", "schedule.lr=0", "schedule.ema=null")
    parent, weights = _final(runs, trained), _final(runs, child)["model"]
    names = [name for name in weights if "running_" not in name and "num_batches" not in name]
    assert all(torch.equal(weights[name], parent["model"][name]) for name in names)
    raw, averaged = read_weights(file, averaged=False), read_weights(file)
    assert (raw.part, averaged.part) == ("model", "model_ema")


def test_a_run_with_further_classes_goes_on_from_one_without(runs: Path, trained: Record) -> None:
    child = _run(runs, f"init_from={trained.run_id}", "data.num_classes=30", "schedule.iterations=1", "schedule.lr=0")
    name = "cascade.box_predictor.0.cls_score.weight"
    parent, weights = _final(runs, trained)["model"][name], _final(runs, child)["model"][name]
    assert weights.shape[0] == 31
    assert torch.equal(weights[:24], parent[:24])
    assert torch.equal(weights[-1], parent[-1])
    assert "24 classes are kept, 6 new ones" in (runs / child.run_id / "log.txt").read_text()


def test_going_on_from_another_detector_is_an_error(runs: Path, trained: Record) -> None:
    with pytest.raises(UserError, match="another detector"):
        execute([*TINY, f"runs_dir={runs}", f"init_from={trained.run_id}", "schedule.iterations=1", "backbone.width=1"])


def test_metrics_are_also_tensorboard_events(runs: Path, trained: Record) -> None:
    events = EventAccumulator(str(runs / trained.run_id / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "loss_mask"} <= set(events.Tags()["scalars"])
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, 13))
    assert all(np.isfinite(event.value) for event in losses)


def test_a_needed_run_without_an_acceptance_rate_is_named(runs: Path, trained: Record) -> None:
    with pytest.raises(UserError, match=f"random_selection needs an acceptance rate.*{trained.run_id}"):
        _run(runs, "method=random_selection", "data.pool=half_bad", f"needed_runs=[{trained.run_id}]")
