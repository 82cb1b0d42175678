"""Looking back on a run: its decisions, and a pool scored by its frozen detector. One short real run serves all."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.commands.decisions import (
    agreement,
    by_category,
    by_group,
    by_instance,
    ceiling,
    decisions_command,
    over_time,
    read_decisions,
)
from harness.commands.score import ScoreOptions, by_kind, score_command, score_pool, scoring_data, within_categories
from harness.errors import UserError
from harness.record.decisions import auroc
from harness.run.finished_run import FinishedRun, finished_run
from harness.run.run import execute
from methods.bsgal import Estimator, ReferencePolicy
from methods.clip_filter import ClipFilter
from methods.contract import Scope
from tests.small_training import Trained

FEW = ScoreOptions(per_category=1, hosts=1, references=2)


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
    with pytest.raises(UserError, match="no run nothing"):
        finished_run(runs, "nothing")


def test_decisions_add_up(finished: FinishedRun) -> None:
    decisions = read_decisions(finished.folder)
    time = over_time(decisions, bins=3)
    assert time["images"].sum() == len(decisions)
    assert np.average(time["accepted"], weights=time["images"]) == pytest.approx(decisions["accepted"].mean())
    categories = by_category(decisions, finished.dataset.train.category_names, finished.dataset.train.frequency)
    pasted = decisions["pool_rows"].map(len).sum()
    assert categories["instances"].sum() == by_group(categories)["instances"].sum() == pasted
    instances = by_instance(decisions)
    assert instances["seen"].sum() == pasted
    assert instances["contribution"].is_monotonic_decreasing
    row = instances.iloc[0]
    held = [i for i, rows in enumerate(decisions["pool_rows"]) for r in rows if r == row.pool_row]
    assert row.contribution == pytest.approx(decisions["contribution"].iloc[held].mean())


def test_agreement_is_by_kind_of_fault() -> None:
    instances = pd.DataFrame(
        {"pool_row": [0, 1, 2, 3], "accepted": [1.0, 1.0, 0.0, 0.0], "contribution": [4.0, 2, 3, 1]}
    )
    frame = agreement(instances, np.array(["clean", "clean", "broken_mask", "wrong_label"])).set_index("kind")
    assert frame.loc["clean", "auroc"] == pytest.approx(0.75)
    assert frame.loc["broken_mask", "auroc"] == pytest.approx(0.5)
    assert frame.loc["wrong_label", "auroc"] == pytest.approx(1.0)


def test_a_judge_of_whole_batches_is_limited_by_what_they_mix() -> None:
    kinds = np.array(["clean", "clean", "broken_mask", "wrong_label"])
    decisions = pd.DataFrame(
        {
            "iteration": [0, 0, 1],
            "rank": 0,
            "pool_rows": [[0], [2], [1, 3]],
            "categories": [[0], [0], [0, 0]],
            "accepted": True,
            "contribution": [0.7, 0.2, 0.1],
        }
    )
    # By image, rows 0..3 are judged 1, 0.5, 0, 0.5: of the four pairs three are won and one is tied.
    assert ceiling(decisions, kinds) == pytest.approx(3.5 / 4)
    assert ceiling(decisions.assign(contribution=[0.7, 0.7, 0.1]), kinds) == pytest.approx(0.5)
    assert ceiling(decisions.assign(contribution=np.nan), kinds) is None


def test_the_command_prints_and_writes_a_sheet(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decisions_command(runs, "bsgal_per_image", tmp_path / "sheet.png", count=4)
    printed = capsys.readouterr().out
    for part in ("images decided", "by frequency group", "wrong_label", "knew the truth", "best and worst"):
        assert part in printed
    assert Image.open(tmp_path / "sheet.png").size[0] > 300


def test_auroc_by_hand() -> None:
    assert auroc(np.array([3.0, 1.0, 2.0, np.nan]), np.array([True, True, False, False])) == pytest.approx(0.5)
    assert auroc(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)
    assert auroc(np.array([1.0]), np.array([True])) is None
    ranks = within_categories(np.array([5.0, 1.0, 0.2, 0.1, np.nan]), np.array([0, 0, 1, 1, 1]))
    assert ranks[:4].tolist() == [1.0, 0.5, 1.0, 0.5]
    assert np.isnan(ranks[4])


def test_scores_are_written_and_read_as_a_filter(runs: Path, finished: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "ranking.csv"
    said = score_command(runs, "bsgal_per_image", out, options=FEW)
    assert "24 instances scored" in said
    assert "AUROC of clean against rest" in said
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
    said = score_command(runs, "bsgal_per_image", tmp_path / "ranking.csv", pool="clean", options=FEW)
    assert "all clean or all faulty" in said
    assert not (tmp_path / "ranking.png").exists()


def test_scoring_is_repeatable_and_its_estimators_agree_in_sign(finished: FinishedRun) -> None:
    """Pasted alone, the same instance gets the same score; a small probing step lowers the loss where φ > 0."""
    import torch

    engine = finished.engine(torch.device("cpu"))
    pool = finished.dataset.pool
    rows = pool.rows_of(3)[:6]

    def scores(**options: object) -> np.ndarray:
        chosen = ScoreOptions(hosts=1, references=2, **options)  # type: ignore[arg-type]
        return score_pool(engine, scoring_data(finished.dataset, pool, chosen), pool, rows, chosen)

    by_gradient = scores()
    np.testing.assert_array_equal(by_gradient, scores())
    assert np.abs(scores(scope=Scope.HEADS) - by_gradient).max() > 0
    by_random = scores(reference_policy=ReferencePolicy.random_image)
    assert np.abs(by_random - by_gradient).max() > 0
    np.testing.assert_array_equal(by_random, scores(reference_policy=ReferencePolicy.random_image))
    measured = scores(estimator=Estimator.loss_difference, probe_lr=0.01)
    clear = np.isfinite(by_gradient) & (np.abs(by_gradient) > 0.1)
    assert clear.any()
    assert (np.sign(measured[clear]) == np.sign(by_gradient[clear])).all()
    assert by_kind(np.array([2.0, 1.0]), np.array(["clean", "broken_mask"])) == {"rest": 1.0, "broken_mask": 1.0}


def test_a_run_without_decisions_says_so(trained_baseline: Trained) -> None:
    with pytest.raises(UserError, match=r"kept everything|pastes nothing"):
        read_decisions(finished_run(trained_baseline.runs, "baseline").folder)
