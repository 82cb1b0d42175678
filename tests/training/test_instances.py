"""Losses by instance, instances left out, weights and the detector's confidence, on the native engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.compose import compose
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.data.sample import Batch, View
from harness.data.training import TrainingData, training_loader
from harness.engine import create
from harness.engine.contract import Engine
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.contract import LossKind, LossTable, Proposals, Scope, Selection, ViewKind
from methods.xpaste import XPaste
from tests.small_training import TINY

BATCH = ["method=xpaste", "method.filtered=false", "method.max_samples=5", "schedule.global_batch=4", "data.pool=clean"]
REGIONS = (LossKind.CLASSIFICATION, LossKind.BOX, LossKind.MASK)


@pytest.fixture(scope="module")
def config(mini_root: object) -> RunConfig:
    return compose([*TINY, *BATCH, "schedule.batch_per_rank=4", "schedule.iterations=8"]).config


@pytest.fixture(scope="module")
def engine(config: RunConfig) -> Engine:
    dataset = Dataset(config.data)
    torch.manual_seed(0)
    return create(config, dataset.num_classes, dataset.train.image_counts)


@pytest.fixture(scope="module")
def batch(config: RunConfig) -> Batch:
    dataset = Dataset(config.data)
    data = TrainingData(dataset, 0, config.method, dataset.prepared_pool(config.method, 0))
    return next(batch for batch in training_loader(data, config.schedule) if batch.has_pasted.all())


def step_of(engine: Engine, batch: Batch) -> TrainingStep:
    return TrainingStep(engine, batch, StepPosition(0, 0, 8), Ranks())


def gradient(step: TrainingStep, table: LossTable) -> Tensor:
    return step.gradient(torch.stack(list(step.batch_losses(table).values())).sum(), Scope.all)


def test_instances_name_what_was_pasted(engine: Engine, batch: Batch) -> None:
    instances = step_of(engine, batch).instances
    for image, view in enumerate(batch.augmented):
        own = instances.pasted[image]
        assert instances.pool_row[image][own].tolist() == view.targets.pool_row[view.targets.pasted].tolist()
        assert torch.equal(instances.boxes[image][own], view.targets.boxes[view.targets.pasted])
        assert (instances.pool_row[image][~own] == -1).all()


def test_shares_of_instances_sum_up_to_the_pasted_loss(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    table = step.losses(ViewKind.AUGMENTED)
    for kinds in ((kind,) for kind in REGIONS):
        shares = table.per_instance(*kinds)
        assert shares.shape == step.instances.pasted.shape
        torch.testing.assert_close((shares * step.instances.pasted).sum(), table.pasted_total(*kinds))
    # All losses but the heatmap's background and regions without an instance belong to some instance.
    assert table.per_instance().sum() < table.total()


def test_an_ignored_instance_counts_in_no_loss(engine: Engine, batch: Batch) -> None:
    """With ground truth as the only proposals a region is an instance: leaving it out of the selection must give what
    leaving it out of the targets gives."""
    step = step_of(engine, batch)
    keep = ~step.instances.pasted
    keep[0] = True
    found = step.losses(ViewKind.AUGMENTED, Proposals.GROUND_TRUTH).selected(keep)

    def without(view: View, image: int) -> View:
        return view if image == 0 else replace(view, targets=view.targets[~view.targets.pasted])

    views = [without(view, image) for image, view in enumerate(batch.augmented)]
    expected = engine.losses(views, Proposals.GROUND_TRUTH, torch.Generator().manual_seed(0))
    for name in expected.names(*REGIONS):
        torch.testing.assert_close(found.losses[name].sum, expected.losses[name].sum, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.losses[name].count, expected.losses[name].count)


def test_ignoring_all_that_counts_leaves_no_gradient(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    nothing = torch.zeros_like(step.instances.pasted)
    whole = step.losses(ViewKind.AUGMENTED)
    table = step._table(ViewKind.AUGMENTED).selected(nothing)
    for name in (*table.names(LossKind.BOX, LossKind.MASK), "loss_centernet_loc", "loss_centernet_agn_pos"):
        assert table.losses[name].sum.abs().max() <= 1e-6 * whole.losses[name].sum.abs().max()
        assert table.losses[name].count.abs().max() == 0
        assert step.gradient(table.losses[name].sum.sum()).abs().max() < 1e-6


def test_a_selection_of_everything_changes_nothing(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    everything, ones = torch.ones_like(step.instances.pasted), torch.ones(step.instances.pasted.shape)
    plain = gradient(step, step.trained_table(Selection(torch.ones(4, dtype=torch.bool))))
    for selection in (
        Selection(torch.ones(4, dtype=torch.bool), instances=everything),
        Selection(torch.ones(4, dtype=torch.bool), weight=ones),
        Selection(torch.ones(4, dtype=torch.bool), weight=ones[:, 0]),
    ):
        torch.testing.assert_close(gradient(step, step.trained_table(selection)), plain, rtol=1e-5, atol=1e-7)


def test_losses_of_real_instances_alone(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    selection = XPaste(box_loss=False, mask_loss=False).select(step)
    full, trained = step.losses(ViewKind.AUGMENTED), step.trained_table(selection)
    for name, loss in trained.losses.items():
        whole = full.losses[name]
        if loss.kind in (LossKind.BOX, LossKind.MASK):
            assert whole.pasted is not None
            torch.testing.assert_close(loss.sum.sum(), (whole.sum - whole.pasted).sum())
            assert loss.count.sum() < whole.count.sum()
        else:
            assert torch.equal(loss.sum, whole.sum)
            assert torch.equal(loss.count, whole.count)
    assert XPaste().select(step).without_pasted == frozenset()


def test_weights_scale_what_they_are_of(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    pasted = step.instances.pasted
    table = step.losses(ViewKind.AUGMENTED)
    keep = torch.ones(4, dtype=torch.bool)
    by_image = step.trained_table(Selection(keep, weight=torch.tensor([0.0, 1.0, 2.0, 0.5])))
    torch.testing.assert_close(
        by_image.per_image(), table.per_image() * torch.tensor([0.0, 1.0, 2.0, 0.5]), rtol=1e-5, atol=1e-6
    )
    by_instance = step.trained_table(Selection(keep, weight=torch.where(pasted, 0.25, 9.0)))  # only pasted ones heed it
    expected = table.total() - 0.75 * (table.per_instance() * pasted).sum()
    torch.testing.assert_close(by_instance.total(), expected)
    # A weight of nothing keeps the normaliser, leaving out does not.
    ignored = step.trained_table(Selection(keep, instances=~pasted))
    weightless = step.trained_table(Selection(keep, weight=(~pasted).float()))
    assert ignored.losses["loss_mask"].count.sum() < weightless.losses["loss_mask"].count.sum()
    torch.testing.assert_close(ignored.losses["loss_mask"].sum, weightless.losses["loss_mask"].sum)


def test_rejected_images_train_on_the_original_whatever_is_said_of_their_instances(
    engine: Engine, batch: Batch
) -> None:
    step = step_of(engine, batch)
    keep = torch.tensor([True, False, True, False])
    half = torch.full(step.instances.pasted.shape, 0.5)
    table = step.trained_table(Selection(keep, instances=~step.instances.pasted, weight=half))
    original = step.losses(ViewKind.ORIGINAL)
    for name, loss in table.losses.items():
        assert torch.equal(loss.sum[~keep], original.losses[name].sum[~keep])
        assert torch.equal(loss.count[~keep], original.losses[name].count[~keep])


def test_confidence_is_a_probability_of_pasted_instances_alone(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    found = step.confidence()
    assert torch.equal(found.isnan(), ~step.instances.pasted)
    assert ((found > 0) & (found < 1))[step.instances.pasted].all()
    assert not found.requires_grad
    # It is the label's: shown another label in the same box, the detector answers otherwise.
    views = [replace(v, targets=replace(v.targets, labels=(v.targets.labels + 1) % 24)) for v in batch.augmented]
    other = engine.confidence(views, step._table(ViewKind.AUGMENTED))
    assert not torch.allclose(other[step.instances.pasted], found[step.instances.pasted])


def test_what_is_handed_out_cannot_change_training(engine: Engine, batch: Batch) -> None:
    step, touched = step_of(engine, batch), step_of(engine, batch)
    touched.has_pasted.zero_()
    table = touched.losses(ViewKind.AUGMENTED)
    with torch.no_grad():
        for loss in table.losses.values():
            loss.sum.mul_(3)
            loss.count.mul_(2)
    with pytest.raises(TypeError):
        table.losses["loss_mask"] = table.losses["loss_mask"]  # type: ignore[index]
    selection = Selection(torch.ones(4, dtype=torch.bool))
    assert torch.equal(touched.has_pasted, step.has_pasted)
    torch.testing.assert_close(
        gradient(touched, touched.trained_table(selection)),
        gradient(step, step.trained_table(selection)),
        rtol=0,
        atol=0,
    )


def test_an_average_of_integers_is_refused_on_one_rank_as_on_several(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    assert step.average(torch.tensor([1.5])).item() == 1.5
    with pytest.raises(ValueError, match=r"floats, not of torch.int64: give it `value.double\(\)`"):
        step.average(step.instances.labels)
