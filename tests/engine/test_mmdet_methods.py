"""Every method on a small model of mmdet: steps on the embedded dataset, resuming, two ranks, a whole run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed: pip install 'bsgal-bench[mmdet]'")

import methods
from harness.engine.mmdet.engine import CAPABILITIES
from harness.launch.forks import Forks
from harness.record.decision_log import write_decisions
from harness.record.record import Status, read_records
from tests.engine.mmdet_models import MODELS
from tests.forked import run_forked
from tests.small_training import TINY, SmallRun, raw

pytestmark = pytest.mark.usefixtures("mini_root")


def on_mmdet(model: str = "mask_rcnn", *further: str) -> list[str]:
    name, overrides = MODELS[model]
    quoted = ",".join(f"'{override}'" for override in [*overrides, *further])
    return ["engine=mmdet", f"engine.config={name}", f"engine.overrides=[{quoted}]", "schedule.channels_last=false"]


def logged(run: SmallRun) -> list[dict[str, Any]]:
    """The decisions of a trainer's life, as they come to lie in the run's folder."""
    run.trainer.decisions.save()
    write_decisions(run.trainer.folder, 1, None)
    rows: list[dict[str, Any]] = pq.read_table(run.trainer.folder / "decisions.parquet").to_pylist()
    return rows


# The others need what this engine lacks: the detector's confidence, or its last layer.
ABLE = [name for name in methods.names() if methods.find(name)().required() <= CAPABILITIES]


@pytest.mark.parametrize("method", ABLE)
def test_a_method_selects_and_trains(method: str, tmp_path: Path) -> None:
    run = SmallRun([*on_mmdet(), f"method={method}", "schedule.iterations=2"], tmp_path)
    before = raw(run.engine)
    assert run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines)
    after = raw(run.engine)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    if methods.find(method).pastes and run.method.decides():
        assert logged(run)


@pytest.mark.parametrize("model", ["cascade", "seesaw"])
@pytest.mark.parametrize("mode", ["paste_only", "paste_or_ori"])
def test_both_modes_of_bsgal_on_other_heads(model: str, mode: str, tmp_path: Path) -> None:
    run = SmallRun([*on_mmdet(model), "method=bsgal", f"method.mode={mode}", "schedule.iterations=2"], tmp_path)
    assert run.run()
    assert any(decision["contribution"] is not None for decision in logged(run))


def test_our_backbone_in_mmdet_s_detector(tmp_path: Path) -> None:
    """Without a configuration, Mask R-CNN on the group `backbone`."""
    slim = [o for o in MODELS["mask_rcnn"][1] if not o.startswith("model.backbone") and "in_channels=[" not in o]
    overrides = ["engine=mmdet", f"engine.overrides=[{','.join(map(repr, slim))}]", "backbone=resnet18"]
    run = SmallRun([*overrides, "schedule.iterations=2"], tmp_path)
    before = raw(run.engine)
    assert run.run()
    names = [name for name in before if name.startswith("backbone.trunk.")]
    assert any(not torch.equal(before[name], raw(run.engine)[name]) for name in names)


def test_a_run_that_stops_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    overrides = [*on_mmdet(), "method=bsgal", "schedule.iterations=4", "schedule.checkpoint_every=2"]
    calm = SmallRun(overrides, tmp_path / "calm")
    assert calm.run()
    stopped = SmallRun(overrides, tmp_path / "stopped", stop_after=2)
    assert not stopped.run()
    resumed = SmallRun(overrides, tmp_path / "stopped")
    assert resumed.trainer.resume()
    assert resumed.run()
    assert logged(resumed) == logged(calm)
    for name, value in raw(calm.engine).items():
        assert torch.equal(value, raw(resumed.engine)[name]), name


def test_ranks_that_decide_differently_do_not_wait_for_one_another(forks: Forks, tmp_path: Path) -> None:
    """One rank makes a pass more than the other; a collective inside a pass would pair up wrongly, or hang."""
    overrides = [
        *TINY,
        *on_mmdet(),
        "method=bsgal",
        "method.tau=0.0",
        "schedule.iterations=4",
        "schedule.global_batch=4",
        "evaluation.limit=2",
    ]
    run_forked(forks, *overrides, f"runs_dir={tmp_path}")
    (record,) = read_records(tmp_path)
    assert record.status is Status.complete
    assert set(record.metrics) == {"bbox", "segm"}
    decisions = pd.read_parquet(tmp_path / record.run_id / "decisions.parquet")
    accepted = decisions.groupby(["iteration", "rank"]).accepted.first().unstack()
    assert (accepted[0] != accepted[1]).any()
