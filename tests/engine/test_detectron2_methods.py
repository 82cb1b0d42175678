"""Every method on a detectron2 model: trains, selects, records, resumes; and what the adapter itself costs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed; docs/how-to/engines.md says how to get it")

import methods
from harness.engine.detectron2.engine import CAPABILITIES
from harness.errors import UserError
from harness.record.record import Record, Status, read_record
from harness.run.run import execute
from tests.engine.detectron2_models import SMALL

SHORT = [
    "engine=detectron2",
    "schedule.global_batch=2",
    "schedule.batch_per_rank=2",
    "schedule.checkpoint_every=1",
    "data.size=96",
    "data.test_short=96",
    "data.test_long=128",
    "data.workers=0",
    "evaluation.limit=4",
]
OPTIONS = {"baseline": [], "copy_paste": []}
POOL = ["data.pool=half_bad"]


def listed(overrides: list[str]) -> str:
    return "engine.overrides=[" + ",".join(f"'{text}'" for text in overrides) + "]"


def run(method: str, folder: Path, iterations: int, *more: str, overrides: list[str] = SMALL) -> tuple[str, Record]:
    own = OPTIONS.get(method, POOL)
    runs = [f"runs_dir={folder}", f"schedule.iterations={iterations}", listed(overrides)]
    outcome = execute([f"method={method}", *SHORT, *runs, *own, *more])
    record = read_record(folder, outcome.run_id)
    assert record is not None
    return outcome.run_id, record


# The others need what this engine lacks: the detector's confidence, or its last layer.
ABLE = [name for name in methods.names() if methods.find(name)().required() <= CAPABILITIES]


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize("method", ABLE)
def test_every_method_trains_selects_and_records(method: str, tmp_path: Path) -> None:
    run_id, record = run(method, tmp_path, 2)
    assert record.status is Status.complete
    assert set(record.metrics) == {"bbox", "segm"}
    assert record.settings["engine.name"] == "detectron2"
    line = json.loads((tmp_path / run_id / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"} <= set(line)
    assert line["loss"] == pytest.approx(sum(line[name] for name in line if name.startswith("loss_")), rel=1e-5)


@pytest.mark.usefixtures("mini_root")
def test_a_run_that_is_stopped_resumes_to_the_same_figures(tmp_path: Path) -> None:
    run_id, calm = run("bsgal", tmp_path / "calm", 4)
    saved = tmp_path / "stopped" / run_id / "checkpoint" / "000000002"

    def stop() -> None:
        while not saved.exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    interrupted = run("bsgal", tmp_path / "stopped", 4)[1]
    assert interrupted.status is Status.interrupted
    resumed = run("bsgal", tmp_path / "stopped", 4)[1]
    assert resumed.status is Status.complete
    assert resumed.metrics == calm.metrics
    own, other = (pd.read_parquet(tmp_path / d / run_id / "decisions.parquet") for d in ("calm", "stopped"))
    pd.testing.assert_frame_equal(own, other, check_exact=True)


@pytest.mark.usefixtures("mini_root")
def test_a_method_whose_needs_are_not_met_fails_at_start(tmp_path: Path) -> None:
    retina = ["engine.config=COCO-Detection/retinanet_R_50_FPN_1x.yaml", "engine.overrides=[]", "backbone=resnet50"]
    started = time.monotonic()
    with pytest.raises(UserError, match="pasted_attribution"):
        execute(["method=bsgal", *SHORT, *POOL, *retina, f"runs_dir={tmp_path}", "schedule.iterations=2"])
    assert not list(tmp_path.glob("*/metrics.jsonl"))
    assert time.monotonic() - started < 60


def test_torch_generator_is_left_alone() -> None:
    """The model draws from torch's generator, which a pass seeds for itself."""
    from methods.contract import Proposals
    from tests.detector.small import generator, view
    from tests.engine.detectron2_models import engine_of

    engine = engine_of(*SMALL)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    engine.losses([view(1)], Proposals.SAMPLED, generator(5))
    assert torch.equal(before, torch.get_rng_state())
