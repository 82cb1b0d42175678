"""Selecting single instances by confidence and, as its control, at random: on the native engine and real batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy  # loads what is used of it when that is used
import torch

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.confidence import Confidence
from methods.contract import Method
from methods.two_groups import _one_group, dividing_lines
from tests.small_training import TINY, setup

PASTE = [*TINY, "recipe=mini_paste", "data.pool=half_bad", "schedule.global_batch=8", "schedule.batch_per_rank=8"]


def first_step(*overrides: str) -> tuple[Method, TrainingStep]:
    """The started method and a step with pasted instances."""
    engine, method, batches = setup(compose([*PASTE, *overrides]).config)
    batch = next(batch for batch in batches(0) if batch.has_pasted.any())
    return method, TrainingStep(engine, batch, StepPosition(0, 0, 1), Ranks())


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_line_parts_two_groups_of_any_shares(share: float) -> None:
    rng = np.random.default_rng(1)
    low = np.arange(64) < share * 64
    (line,) = dividing_lines([np.where(low, -3.0, 1.0) + rng.normal(0, 0.7, 64)])
    assert -2.0 < line < 0.0


def test_one_group_has_no_line_nor_has_one_with_a_tail_of_low_figures() -> None:
    rng = np.random.default_rng(2)
    assert np.isnan(dividing_lines([rng.normal(size=64) for _ in range(100)])).mean() >= 0.98
    assert np.isnan(dividing_lines([-rng.gumbel(size=64) for _ in range(100)])).mean() >= 0.98
    assert np.isnan(dividing_lines([np.zeros(64), np.array([-5.0, 5.0])])).all()
    assert len(dividing_lines([])) == 0


@pytest.mark.parametrize("apart", [2.8, 3.2])
def test_what_is_doubtful_in_one_set_is_decided_by_the_others(apart: float) -> None:
    rng = np.random.default_rng(3)
    group = scipy.stats.norm.ppf((np.arange(32) + 0.5) / 32)
    doubtful = np.concatenate([group, group + apart])
    ones = [rng.normal(size=64) for _ in range(20)]
    twos = [np.concatenate([-6 + rng.normal(size=32), rng.normal(size=32)]) for _ in range(20)]
    assert np.isnan(dividing_lines([doubtful, *ones])[0])
    assert dividing_lines([doubtful, *twos])[0] == pytest.approx(apart / 2, abs=0.05)


@pytest.mark.parametrize(("few", "parted"), [(1, False), (3, False), (6, True)])
def test_two_groups_in_few_of_24_sets_are_no_sign_of_bad_ones(few: int, parted: bool) -> None:
    rng = np.random.default_rng(5)
    ones = [-rng.gumbel(size=64) for _ in range(24 - few)]
    # A quarter is hard, as of one clean category by the baseline of seed 10.
    middle = np.where(np.arange(64) < 17, -5.6, -1.3)
    twos = [middle + rng.normal(0, 0.9, 64) for _ in range(few)]
    assert (~np.isnan(dividing_lines([*twos, *ones]))).tolist() == [parted] * few + [False] * len(ones)


def test_one_group_is_as_likely_as_the_likelier_of_both_distributions() -> None:
    rng = np.random.default_rng(4)
    even, left_tailed = rng.normal(2, 3, 64), 1 - rng.gumbel(0, 2, 64)
    gaussian = [-32 * (np.log(2 * np.pi * values.var()) + 1) for values in (even, left_tailed)]
    assert _one_group(even) == pytest.approx(gaussian[0])
    true = scipy.stats.gumbel_l.logpdf(left_tailed, 1, 2).sum()
    assert max(gaussian[1], true) < _one_group(left_tailed) < true + 5  # twice what a fit gains is chi-squared with 2


def test_in_training_an_instance_stays_when_it_reaches_a_share_of_its_category_s_best() -> None:
    method, step = first_step("method=confidence", "method.level=0.6", "method.warmup=1", "method.window=4")
    pasted, labels = step.instances.pasted, step.instances.labels
    confidence = step.confidence()
    first = method.select(step)
    assert first.instances is not None
    assert first.instances[pasted].all()
    assert first.keep.all()
    second = method.select(step)
    assert second.instances is not None
    for label in labels[pasted].unique().tolist():
        own = confidence[pasted & (labels == label)]
        stays = own >= 0.6 * np.quantile(own[-4:].numpy(), 0.9)
        assert torch.equal(second.instances[pasted & (labels == label)], stays)
    assert 0 < second.instances[pasted].float().mean() <= 1


def test_categories_are_kept_whole_until_enough_was_seen() -> None:
    method, step = first_step("method=confidence", "method.level=1", "method.warmup=8")
    pasted = step.instances.pasted
    first = method.select(step)
    assert first.instances is not None
    assert first.instances[pasted].all()
    for _ in range(8):
        last = method.select(step)
    assert last.instances is not None
    assert not last.instances[pasted].all()


def test_scores_leave_out_the_lower_group_of_each_category_before_training(tmp_path: Path) -> None:
    config = compose([*PASTE, "data.pool=confused"]).config
    dataset = Dataset(config.data)
    pool, kinds = dataset.pool, dataset.kinds(dataset.pool)
    assert kinds is not None
    rng = np.random.default_rng(3)
    # A category in three has one group; confidences of all others tell clean instances from bad ones.
    one_group = pool.categories % 3 == 0
    odds = np.where((kinds == "clean") | one_group, 0.0, -5.0) + rng.normal(0, 0.5, len(pool))
    table = {"category": pool.categories, "path": pool.column("path"), "score": 1 / (1 + np.exp(-odds))}
    pd.DataFrame(table).iloc[1:].to_csv(tmp_path / "scores.csv", index=False)
    method = Confidence(scores=str(tmp_path / "scores.csv"))
    kept = method.prepare(pool, dataset.facts, rng)
    rows = set(zip(kept.categories.tolist(), kept.column("path").tolist(), strict=True))
    told = [pair in rows for pair in zip(pool.categories.tolist(), pool.column("path").tolist(), strict=True)]
    expected = (kinds == "clean") | one_group
    assert not told[0], "an instance without a score is left out"
    assert np.mean(np.array(told)[1:] == expected[1:]) > 0.98
    assert not method.decides()
    assert method.required() == frozenset()


def test_options_of_judging_in_training_are_refused_with_scores() -> None:
    with pytest.raises(UserError, match="level belongs to judging in training"):
        compose([*PASTE, "method=confidence", "method.scores=scores.csv", "method.level=0.2"])


def test_random_selection_by_instance_keeps_images_and_a_share_of_what_was_pasted() -> None:
    method, step = first_step("method=random_selection", "method.per_instance=true", "method.rate=0.3")
    pasted = step.instances.pasted
    drawn = [method.select(step) for _ in range(60)]
    assert all(each.keep.all() for each in drawn)
    kept = torch.stack([each.instances[pasted] for each in drawn if each.instances is not None])
    assert float(kept.float().mean()) == pytest.approx(0.3, abs=0.05)
    with pytest.raises(UserError, match="exclude each other"):
        compose([*PASTE, "method=random_selection", "method.per_instance=true", "method.per_image=true"])
