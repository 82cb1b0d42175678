"""The whole way from the command line, as a user goes it: sweep, records, page; killed and resumed; wrong input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness.record.gallery import read_gallery
from harness.record.matches import read_half_matches
from harness.record.record import Status, read_records
from reports.faults import fault_gains
from tests import command_line
from tests.command_line import Ended
from tests.small_training import TINY

HARNESS = [sys.executable, "-m", "harness.cli"]
SMALL = [*TINY, "data.workers=1"]
SHORT = [*SMALL, "schedule.iterations=8", "evaluation.limit=12", "schedule.checkpoint_every=2"]

SWEEP = f"""
description: "Two short runs"
defaults: [data=mini, {", ".join(SMALL)}, schedule.iterations=6, evaluation.limit=12]
grid:
  - {{name: baseline, method: baseline, seed: 0}}
  - {{method: bsgal, data.pool: half_bad, seed: 0}}
after:
  - when: {{method: bsgal}}
    init_from: {{name: baseline}}
report: mini
"""


def harness(*arguments: str, cwd: Path) -> Ended:
    """A command that ends well; the sweep's runs are processes of their own."""
    ended = command_line.harness(*arguments, cwd=cwd, environment=environment())
    assert ended.code == 0, ended.err + ended.out
    return ended


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}


@pytest.mark.usefixtures("mini_root")
def test_a_sweep_of_two_runs_ends_in_a_page_that_shows_their_figures(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(SWEEP)
    plan = harness("sweep", "two.yaml", "--dry-run", cwd=tmp_path)
    assert "2 of 2 runs to do" in plan.out
    assert not (tmp_path / "runs").exists()

    harness("sweep", "two.yaml", cwd=tmp_path)
    records = {record.name: record for record in read_records(tmp_path / "runs")}
    assert {record.status for record in records.values()} == {Status.complete}
    bsgal = records["bsgal"]
    assert bsgal.provenance["parents"] == [records["baseline"].run_id]
    assert 0 <= bsgal.statistics["acceptance_rate"] <= 1
    assert set(bsgal.metrics) == {"bbox", "segm"}
    decisions = pd.read_parquet(tmp_path / "runs" / bsgal.run_id / "decisions.parquet")
    assert decisions.clean_share.between(0, 1).all()

    explained = {name: tmp_path / "runs" / record.run_id for name, record in records.items()}
    galleries = {name: read_gallery(folder) or {} for name, folder in explained.items()}
    shown = [[image["file"] for image in gallery["images"]] for gallery in galleries.values()]
    assert shown[0] == shown[1]  # the same pictures of every run
    assert len(shown[0]) == 6
    assert galleries["baseline"]["instances"] == []
    judged = galleries["bsgal"]["instances"]
    assert {each["clean"] for each in judged} == {True, False}  # of the pool's hidden truth
    assert all((explained["bsgal"] / "gallery" / each["file"]).is_file() for each in judged)
    assert bsgal.provenance["method"]["options"]["tau"] == "null"
    for folder in explained.values():
        matches = read_half_matches(folder, "segm")
        assert matches is None or fault_gains(matches)  # six steps may find nothing

    again = harness("sweep", "two.yaml", cwd=tmp_path)
    assert read_records(tmp_path / "runs") == list(dict(sorted((r.run_id, r) for r in records.values())).values())
    assert "2" in again.out

    printed = harness("report", "mini", cwd=tmp_path).out.split()[-1]
    page = (tmp_path / printed).read_text()
    for record in records.values():
        assert record.run_id in page
    assert "data:image/jpeg;base64," in page
    assert "Accepts pasted batches that would lower the loss" in page  # a method's card
    table = pd.read_csv(tmp_path / "report" / "mini" / "table.csv")
    assert len(table) > 0


@pytest.mark.usefixtures("mini_root")
def test_a_run_that_is_killed_resumes_to_the_same_figures_and_decisions(tmp_path: Path) -> None:
    overrides = ["method=bsgal", *SHORT]
    harness("run", *overrides, "runs_dir=calm", cwd=tmp_path)
    (calm,) = read_records(tmp_path / "calm")

    killed = subprocess.Popen(
        [*HARNESS, "run", *overrides, "runs_dir=killed"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoint = tmp_path / "killed" / calm.run_id / "checkpoint" / "000000004"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and time.monotonic() < deadline:
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / calm.run_id / "record.json").exists()

    harness("run", *overrides, "runs_dir=killed", cwd=tmp_path)
    (resumed,) = read_records(tmp_path / "killed")
    log = (tmp_path / "killed" / resumed.run_id / "log.txt").read_text()
    assert "resuming from step" in log
    assert resumed.run_id == calm.run_id
    assert resumed.metrics == calm.metrics
    own, other = (pd.read_parquet(tmp_path / d / calm.run_id / "decisions.parquet") for d in ("calm", "killed"))
    pd.testing.assert_frame_equal(own, other, check_exact=True)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / d / calm.run_id / "metrics.jsonl").read_text().splitlines()]
        for d in ("calm", "killed")
    ]
    assert losses[0] == losses[1]
    assert [p.name for p in (tmp_path / "killed" / calm.run_id / "checkpoint").iterdir()] == ["final.pt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "method=bsgl"], ["did you mean 'bsgal'?"]),
        (["run", "recipe=baseline_r50", "data.root=nowhere"], ["nowhere", "does not exist"]),
        (["run", "method=xpaste", "data.pool=haf_bad"], ["data.pool=haf_bad", "'half_bad'"]),
        (["run", "train=false", "weights=none.pth"], ["none.pth does not exist"]),
        (["sweep", "minni"], ["minni", "'mini'"]),
        (["report", "minni"], ["minni", "'mini'"]),
        (["evaluate", "none.json", "--annotations", "none.json"], ["none.json"]),
        (["logs", "nothing"], ["nothing"]),
    ],
)
@pytest.mark.usefixtures("mini_root")
def test_user_errors_are_one_line_without_a_traceback(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    ended = command_line.harness(*arguments, cwd=tmp_path, environment=environment())
    assert ended.code != 0
    assert "Traceback" not in ended.err + ended.out
    message = ended.err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    for word in words:
        assert word in message


@pytest.mark.usefixtures("mini_root")
def test_a_process_prints_what_the_command_does_in_this_one(tmp_path: Path) -> None:
    words = ["run", "method=bsgl"]
    done = subprocess.run([*HARNESS, *words], cwd=tmp_path, capture_output=True, text=True, env=environment())
    ended = command_line.harness(*words, cwd=tmp_path, environment=environment())
    assert (done.returncode, done.stdout, done.stderr) == (ended.code, ended.out, ended.err)
