"""Selecting single instances by confidence and, as its control, at random: on the native engine and real batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.compose import compose
from harness.errors import UserError
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.contract import Method
from tests.small_training import TINY, setup

PASTE = [*TINY, "recipe=mini_paste", "data.pool=half_bad", "schedule.global_batch=8", "schedule.batch_per_rank=8"]


def first_step(*overrides: str) -> tuple[Method, TrainingStep]:
    """The started method and a step with pasted instances."""
    engine, method, batches = setup(compose([*PASTE, *overrides]).config)
    batch = next(batch for batch in batches(0) if batch.has_pasted.any())
    return method, TrainingStep(engine, batch, StepPosition(0, 0, 1), Ranks())


def test_by_level_an_instance_stays_when_it_reaches_a_share_of_its_category_s_best() -> None:
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


def test_by_quantile_a_category_is_kept_whole_until_enough_was_seen() -> None:
    method, step = first_step("method=confidence", "method.by=quantile", "method.warmup=8")
    pasted = step.instances.pasted
    first = method.select(step)
    assert first.instances is not None
    assert first.instances[pasted].all()
    for _ in range(8):
        last = method.select(step)
    assert last.instances is not None
    assert not last.instances[pasted].all()


def test_options_of_the_other_rule_are_refused() -> None:
    with pytest.raises(UserError, match="quantile belongs to by=quantile"):
        compose([*PASTE, "method=confidence", "method.quantile=0.75"])
    with pytest.raises(UserError, match="level belongs to by=level"):
        compose([*PASTE, "method=confidence", "method.by=quantile", "method.level=0.2"])


def test_random_selection_by_instance_keeps_images_and_a_share_of_what_was_pasted() -> None:
    method, step = first_step("method=random_selection", "method.per_instance=true", "method.rate=0.3")
    pasted = step.instances.pasted
    drawn = [method.select(step) for _ in range(60)]
    assert all(each.keep.all() for each in drawn)
    kept = torch.stack([each.instances[pasted] for each in drawn if each.instances is not None])
    assert float(kept.float().mean()) == pytest.approx(0.3, abs=0.05)
    with pytest.raises(UserError, match="exclude each other"):
        compose([*PASTE, "method=random_selection", "method.per_instance=true", "method.per_image=true"])
