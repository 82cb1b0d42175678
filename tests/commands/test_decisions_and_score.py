"""Looking back on a run: its decisions, and a pool scored by its frozen detector. One short real run serves all."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from harness.commands.decisions import by_category, by_group, by_instance, decisions_command, over_time
from harness.commands.hidden_truth import agreement_by_kind, rocs_by_kind
from harness.commands.score import stage_command, within_categories
from harness.config import Stage, StageConfig
from harness.errors import UserError
from harness.record.decisions import ceiling, read_decisions, read_pasted
from harness.run.finished_run import FinishedRun, finished_run
from harness.run.run import execute
from harness.stages.chunks import Chunk
from harness.stages.scoring import scorer
from methods.clip_filter import ClipFilter
from reports.decisions import agreement
from tests.small_training import Trained

FEW = StageConfig(Stage.score, "gradient", hosts=1, per_category=1, references=2)


@pytest.fixture(scope="module")
def runs(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    options = ["schedule.iterations=6", "evaluation.limit=2", "data.workers=0", "data.pool=half_bad"]
    execute(["method=bsgal_per_image", "method.threshold=percentile", f"runs_dir={folder}", *options])
    return folder


@pytest.fixture(scope="module")
def finished(runs: Path) -> FinishedRun:
    return finished_run(runs, "bsgal_per_image")


def test_a_finished_run_has_the_options_it_was_made_with(finished: FinishedRun) -> None:
    assert finished.config.method.threshold.name == "percentile"
    assert finished.config.schedule.iterations == 6
    assert len(finished.prepared_pool) == len(finished.dataset.pool)


def test_runs_are_found_by_a_beginning_that_is_theirs_alone(runs: Path) -> None:
    with pytest.raises(UserError, match="no record of a run 'nothing'"):
        finished_run(runs, "nothing")


def test_decisions_add_up(finished: FinishedRun) -> None:
    decisions, pasted = read_decisions(finished.folder), read_pasted(finished.folder)
    assert decisions is not None
    assert pasted is not None
    time = over_time(decisions, bins=3)
    assert time["images"].sum() == len(decisions)
    assert np.average(time["accepted"], weights=time["images"]) == pytest.approx(decisions["accepted"].mean())
    categories = by_category(pasted, finished.dataset.train.category_names, finished.dataset.train.frequency)
    count = decisions["instances"].sum()
    assert categories["instances"].sum() == by_group(categories)["instances"].sum() == len(pasted) == count
    instances = by_instance(pasted)
    assert instances["seen"].sum() == count
    assert instances["contribution"].is_monotonic_decreasing
    row = instances.iloc[0]
    logged = pd.read_parquet(finished.folder / "decisions.parquet")
    logged = logged[logged["decided"]]
    held = [i for i, rows in enumerate(logged["pool_rows"]) for r in rows if r == row.pool_row]
    assert row.contribution == pytest.approx(logged["contribution"].iloc[held].mean())


def test_agreement_is_by_kind_of_fault() -> None:
    kinds = np.array(["clean", "clean", "broken_mask", "wrong_label"])
    pasted = pd.DataFrame(
        {
            "pool_row": [0, 0, 1, 2, 3],  # the first one was pasted twice, and counts twice
            "accepted": [True, False, True, False, False],
            "contribution": [4.0, 1.0, 2.0, 3.0, 1.0],
        }
    )
    frame = agreement_by_kind(pasted, kinds).set_index("kind")
    assert list(frame.index) == ["clean", "broken_mask", "wrong_label"]
    assert frame["instances"].tolist() == [3, 1, 1]
    assert frame.loc["clean", "accepted"] == pytest.approx(2 / 3)
    assert frame.loc["clean", "contribution"] == pytest.approx(7 / 3)
    # Against 3: one of 4, 1, 2 is above. Against 1: two are above and one is equal. Against both: their mean.
    assert frame.loc["broken_mask", "auroc"] == pytest.approx(1 / 3)
    assert frame.loc["wrong_label", "auroc"] == pytest.approx(2.5 / 3)
    assert frame.loc["clean", "auroc"] == pytest.approx(3.5 / 6)
    assert agreement_by_kind(pasted.assign(contribution=np.nan), kinds)["auroc"].isna().all()


def test_the_command_the_report_and_the_score_mean_the_same_by_auroc(finished: FinishedRun) -> None:
    decisions, pasted = read_decisions(finished.folder), read_pasted(finished.folder)
    assert decisions is not None
    assert pasted is not None
    kinds = finished.dataset.kinds(finished.prepared_pool)
    assert kinds is not None
    of_command = agreement_by_kind(pasted, kinds).set_index("kind").loc["clean", "auroc"]
    of_score = rocs_by_kind(pasted["contribution"].to_numpy(), kinds[pasted["pool_row"]])["rest"].auroc
    assert of_command == of_score == pytest.approx(agreement(decisions)["auroc"], abs=1e-12)
    best = ceiling(decisions)
    assert best is not None
    assert best == agreement(decisions)["ceiling"]
    assert of_command < best < 1


def test_the_command_prints_and_writes_a_sheet(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decisions_command(runs, "bsgal_per_image", tmp_path / "sheet.png", count=4)
    printed = capsys.readouterr().out
    for part in ("images decided", "by frequency group", "wrong_label", "ceiling 0.", "best and worst"):
        assert part in printed
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size[0] > 300


def test_rocs_are_by_kind_of_fault_and_left_out_where_undefined() -> None:
    kinds = np.array(["clean", "broken_mask", "wrong_label", "clean"])
    curves = rocs_by_kind(np.array([2.0, 1.0, np.nan, 0.5]), kinds)
    assert {name: curve.auroc for name, curve in curves.items()} == {"rest": 0.5, "broken_mask": 0.5}


def test_ranks_within_categories_by_hand() -> None:
    ranks = within_categories(np.array([5.0, 1.0, 0.2, 0.1, np.nan]), np.array([0, 0, 1, 1, 1]))
    assert ranks[:4].tolist() == [1.0, 0.5, 1.0, 0.5]
    assert np.isnan(ranks[4])


def test_scores_are_written_and_read_as_a_filter(runs: Path, finished: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "ranking.csv"
    printed = stage_command(runs, "bsgal_per_image", FEW, out)
    assert "24 instances, 0 of them without a result" in printed
    assert "AUROC of clean against rest" in printed
    assert (tmp_path / "ranking.png").stat().st_size > 5000
    with out.open() as file:
        listed = list(csv.DictReader(file))
    scores = [float(row["score"]) for row in listed if row["score"]]
    assert len(listed) == 24
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)
    pool = finished.dataset.pool
    kinds = dict(zip(pool.column("path"), finished.dataset.kinds(pool), strict=True))  # type: ignore[arg-type]
    assert all(kinds[row["path"]] == row["kind"] for row in listed)
    kept = ClipFilter(share=0.01, scores=str(out)).prepare(pool, finished.dataset.facts, np.random.default_rng(0))
    assert set(kept.column("path")) >= {row["path"] for row in listed if row["score"]}


def test_a_pool_without_faults_is_ranked_without_a_curve(runs: Path, tmp_path: Path) -> None:
    printed = stage_command(runs, "bsgal_per_image", FEW, tmp_path / "ranking.csv", pool="clean")
    assert "all clean or all faulty" in printed
    assert not (tmp_path / "ranking.png").exists()


def test_scoring_is_repeatable_and_its_estimators_agree_in_sign(finished: FinishedRun) -> None:
    """Pasted alone, the same instance gets the same score; a small probing step lowers the loss where φ > 0."""
    engine = finished.engine(torch.device("cpu"))
    chunk = Chunk(0, 3, finished.dataset.pool.rows_of(3)[:6])

    def scores(by: str = "gradient", **options: Any) -> np.ndarray:
        stage = StageConfig(Stage.score, by, hosts=1, references=2, **options)
        return scorer(dataclasses.replace(finished.config, stage=stage), finished.dataset, engine)(chunk)

    by_gradient = scores()
    np.testing.assert_array_equal(by_gradient, scores())
    assert np.abs(scores(scope="heads") - by_gradient).max() > 0
    by_random = scores(reference_policy="random_image")
    assert np.abs(by_random - by_gradient).max() > 0
    np.testing.assert_array_equal(by_random, scores(reference_policy="random_image"))
    measured = scores("loss_difference", probe_lr=0.01)
    clear = np.isfinite(by_gradient) & (np.abs(by_gradient) > 0.1)
    assert clear.any()
    assert (np.sign(measured[clear]) == np.sign(by_gradient[clear])).all()


def test_a_run_without_decisions_says_so(trained_baseline: Trained) -> None:
    with pytest.raises(UserError, match=r"baseline.* holds no decisions: .* pastes nothing"):
        decisions_command(trained_baseline.runs, "baseline")
