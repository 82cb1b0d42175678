"""Offline stages: stopped and going on, the files that they leave, and what reads those."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.commands.score import stage_command
from harness.compose import compose
from harness.config import RunConfig, Stage, StageConfig
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.record.record import Record, Status, read_record
from harness.run.finished_run import finished_run
from harness.run.identity import identify
from harness.run.run import execute
from harness.stages.chunks import MOST_ROWS, ChunkedWork, chunks_of
from harness.stages.embedding import averaged, centred
from harness.stages.stage import carry_out
from harness.training.distributed import Ranks
from methods.coreset import Coreset, embeddings
from tests.small_training import TINY, Trained

CONFIDENCE = StageConfig(Stage.score, hosts=1, per_category=2)


@pytest.fixture(scope="module")
def runs(trained_baseline: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a baseline whose weights the stages go by."""
    folder = tmp_path_factory.mktemp("stages") / "runs"
    shutil.copytree(trained_baseline.runs, folder)
    return folder


@pytest.fixture(scope="module")
def baseline(trained_baseline: Trained) -> str:
    return trained_baseline.record.run_id


@pytest.fixture(scope="module")
def pool(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six instances of two categories; the file of one is missing."""
    everything = Dataset(compose(["data=mini", "data.pool=half_bad"]).config.data).pool
    files = {c: [everything.source(int(row)).path for row in everything.rows_of(c)[:3]] for c in (2, 5)}  # type: ignore[union-attr]
    files[5][1] += ".gone.png"
    path = tmp_path_factory.mktemp("pool") / "six.json"
    path.write_text(json.dumps(files))
    return path


def record_of(runs: Path, printed: str) -> Record:
    record = read_record(runs, Path(printed.splitlines()[0].rpartition(": ")[2]).parent.name)
    assert record is not None
    return record


def test_chunks_are_of_one_category_each_and_hold_every_row_once() -> None:
    categories = np.array([1, 0, 1, 1] + [2] * (MOST_ROWS + 5))
    chunks = chunks_of(categories, np.arange(len(categories)))
    assert [len(chunk.rows) for chunk in chunks] == [1, 3, MOST_ROWS, 5]
    assert [chunk.number for chunk in chunks] == [0, 1, 2, 3]
    assert all((categories[chunk.rows] == chunk.category).all() for chunk in chunks)
    assert sorted(np.concatenate([chunk.rows for chunk in chunks])) == list(range(len(categories)))


def test_work_that_is_stopped_goes_on_with_what_is_left(tmp_path: Path) -> None:
    chunks = chunks_of(np.array([0, 1, 1, 2]), np.arange(4))
    seen: list[int] = []

    def do(chunk: object) -> np.ndarray:
        seen.append(chunk.number)  # type: ignore[attr-defined]
        return 10.0 * chunk.rows  # type: ignore[attr-defined,no-any-return]

    assert not ChunkedWork(Ranks(), tmp_path, stop_asked=lambda: len(seen) == 2).done(chunks, do)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (line["iteration"], line["total"]) == (3, 4)
    work = ChunkedWork(Ranks(), tmp_path)
    assert work.done(chunks, do)
    assert seen == [0, 1, 2]
    assert np.concatenate(work.results(chunks)).tolist() == [0.0, 10.0, 20.0, 30.0]


def test_a_score_is_a_run_with_a_record_and_no_detector_s_figures(runs: Path, baseline: str, tmp_path: Path) -> None:
    printed = stage_command(runs, baseline, CONFIDENCE, tmp_path / "scores.csv", "half_bad")
    record = record_of(runs, printed)
    assert record.run_id.startswith("score-resnet18-s0-")
    assert (record.status, record.stage, record.metrics) == (Status.complete, "score", {})
    assert record.statistics == {"file": "scores.csv", "rows": 48, "without": 0}
    assert record.provenance["parents"] == [baseline]
    folder = runs / record.run_id
    assert not list((folder / "checkpoint").glob("*"))
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [float(row["score"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert all(0 < value < 1 for value in values)
    assert "kind" not in rows[0]  # what methods read does not tell them the truth
    assert "kind" in (tmp_path / "scores.csv").read_text()
    # Once more is nothing to do, and by hand it is the same run.
    before = (folder / "record.json").stat().st_mtime_ns
    assert stage_command(runs, baseline, CONFIDENCE, None, "half_bad").splitlines()[0] == printed.splitlines()[0]
    words = ["stage=score", "stage.hosts=1", "stage.per_category=2", "data.pool=half_bad", f"init_from={baseline}"]
    outcome = execute([*TINY, *words, "method=xpaste", "schedule.iterations=7", f"runs_dir={runs}"])
    assert (outcome.run_id, outcome.message) == (record.run_id, "complete already")
    assert (folder / "record.json").stat().st_mtime_ns == before


def test_a_score_that_was_stopped_ends_as_if_it_had_not_been(runs: Path, baseline: str, tmp_path: Path) -> None:
    finished = finished_run(runs, baseline)
    data = dataclasses.replace(finished.config.data, pool="half_bad")
    config = dataclasses.replace(finished.config, data=data, stage=dataclasses.replace(CONFIDENCE, per_category=1))
    engine, dataset = finished.engine(torch.device("cpu")), Dataset(data)

    def run(folder: Path, stops: Iterator[bool]) -> bool:
        folder.mkdir(exist_ok=True)
        work = ChunkedWork(Ranks(), folder, stop_asked=lambda: next(stops))
        return carry_out(config, dataset, engine, work) is not None

    never = iter([False] * 999)
    assert run(tmp_path / "whole", never)
    assert not run(tmp_path / "killed", iter([False] * 5 + [True]))
    assert len(list((tmp_path / "killed" / "checkpoint").glob("*.npy"))) == 5
    assert run(tmp_path / "killed", never)
    assert (tmp_path / "killed/scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()


def test_embeddings_have_a_line_for_each_row(runs: Path, baseline: str, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.npy"
    record = record_of(runs, stage_command(runs, baseline, StageConfig(Stage.embed, size=64), out, str(pool)))
    assert record.statistics == {"file": "embeddings.npy", "rows": 6, "without": 1}
    found = np.load(out)
    assert found.dtype == np.float16
    assert found.shape == (6, 128)
    assert np.isnan(found).all(1).tolist() == [False, False, False, False, True, False]
    config = compose(["data=mini", f"data.pool={pool}"]).config.data
    instances, facts = Dataset(config).pool, Dataset(config).facts
    # Each category's first one is that which lies nearest to its mean, and the faulty one never comes.
    kept = Coreset(share=0.3, embeddings=str(out)).prepare(instances, facts, np.random.default_rng(0))
    assert kept.categories.tolist() == [2, 5]
    whole = Coreset(share=1.0, embeddings=str(out)).prepare(instances, facts, np.random.default_rng(0))
    assert len(whole) == 5
    with pytest.raises(ValueError, match=r"has the shape \(6, 128\), and the pool has 5 instances"):
        embeddings(out, instances.subset(np.arange(5)))


def test_an_instance_lies_whole_in_the_middle_of_the_mean_colour() -> None:
    rgba = np.full((10, 20, 4), 255, np.uint8)
    rgba[:, 10:, 3] = 0
    image, opacity = centred(rgba, 40)
    assert image.shape == (40, 40, 3)
    assert opacity.sum() == pytest.approx(20 * 20, rel=0.1)
    assert (image[:9] == np.round([123.675, 116.28, 103.53])).all()
    assert (image[12:28, 2:16] == 255).all()
    assert (image[12:28, 25:] == np.round([123.675, 116.28, 103.53])).all()
    features = torch.zeros(1, 2, 4, 4)
    features[0, 0, :, :2], features[0, 1, :, 2:] = 1.0, 5.0
    found = averaged(features, torch.from_numpy(opacity)[None])
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0]]), atol=0.3, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stage=score"], r"needs a trained detector: give init_from=RUN_ID or weights=FILE$"),
        (["stage=embed"], "or backbone.weights=FILE"),
        (["stage=score", "init_from=x", "data.pool=null"], "needs a pool: give data.pool=PATH"),
    ],
)
def test_a_stage_that_cannot_be_meant_is_refused(overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        execute([*TINY, f"runs_dir={tmp_path}", *overrides])


@pytest.mark.usefixtures("mini_root")
def test_a_file_that_a_stage_will_leave_counts_by_the_stage() -> None:
    def config(run: str, runs_dir: str = "runs") -> RunConfig:
        words = ["method=clip_filter", f"needed_runs=[{run}]", f"method.scores={runs_dir}/{run}/scores.csv"]
        return compose(["data=mini", f"runs_dir={runs_dir}", *words]).config

    assert identify(config("score-a")) == identify(config("score-a", "elsewhere")) != identify(config("score-b"))
    with pytest.raises(UserError, match=r"method\.scores: runs/score-a/scores\.csv does not exist"):
        identify(dataclasses.replace(config("score-a"), needed_runs=[]))


def test_a_run_waits_for_its_file_and_refuses_one_of_another_pool(runs: Path, baseline: str, pool: Path) -> None:
    own = StageConfig(Stage.embed, size=32)
    made = record_of(runs, stage_command(runs, baseline, own, None, str(pool))).run_id
    words = [*TINY, "method=coreset", "schedule.iterations=1", f"runs_dir={runs}"]

    def run(stage: str, where: Path | str) -> Status | None:
        file = f"method.embeddings={runs}/{stage}/embeddings.npy"
        return execute([*words, f"needed_runs=[{stage}]", file, f"data.pool={where}"]).status

    assert run("embed-that-is-not-there", pool) is Status.waiting
    with pytest.raises(UserError, match=f"{made} used another pool than data.pool=half_bad"):
        run(made, "half_bad")
    assert run(made, pool) is Status.complete
    (runs / made / "embeddings.npy").unlink()
    with pytest.raises(UserError, match=f"embeddings.npy is gone; delete the folder of {made}"):
        execute(
            [
                *words,
                f"needed_runs=[{made}]",
                f"method.embeddings={runs}/{made}/embeddings.npy",
                f"data.pool={pool}",
                "seed=1",
            ]
        )
