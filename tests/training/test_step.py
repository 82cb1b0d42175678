"""The training step: passes shared, batch-norm statistics clean, weights restored, decisions turned into losses."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.compose import compose
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.data.sample import Batch
from harness.data.training import TrainingData, training_loader
from harness.engine import create
from harness.engine.contract import Engine
from harness.training.distributed import Ranks
from harness.training.flat_gradient import FlatGradient
from harness.training.step import StepPosition, TrainingStep
from methods.contract import LossKind, Proposals, Scope, Selection, ViewKind

FP32 = ["schedule.precision=fp32", "data.workers=0", "schedule.global_batch=4", "schedule.batch_per_rank=4"]


@pytest.fixture(scope="module")
def config(mini_root: Path) -> RunConfig:
    return compose(["method=bsgal", *FP32]).config


@pytest.fixture(scope="module")
def batch(config: RunConfig) -> Batch:
    """A batch in which something was pasted into every image."""
    dataset = Dataset(config.data)
    data = TrainingData(dataset, config.seed, config.method, dataset.prepared_pool(config.method, config.seed))
    for batch in training_loader(data, config.schedule):
        if batch.has_pasted.all() and len(batch.reference) == 4:
            return batch
    raise AssertionError("no such batch")


@pytest.fixture
def engine(config: RunConfig) -> Engine:
    torch.manual_seed(0)
    return create(config, 24, np.full(24, 10))


def step_of(engine: Engine, batch: Batch, iteration: int = 0) -> TrainingStep:
    return TrainingStep(engine, batch, StepPosition(0, iteration, 10), Ranks())


def statistics(engine: Engine) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in engine.module.named_buffers() if "running" in k}


def count_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = engine.losses

    def counted(views, *args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(len(views))
        return real(views, *args, **kwargs)

    monkeypatch.setattr(engine, "losses", counted)
    return calls


def keep(*values: bool) -> Selection:
    return Selection(torch.tensor(values))


def test_a_view_is_computed_once(engine: Engine, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_passes(engine, monkeypatch)
    step = step_of(engine, batch)
    first = step.losses(ViewKind.AUGMENTED, grad=True).total()
    assert torch.equal(step.losses(ViewKind.AUGMENTED, grad=True).total(), first)
    assert torch.equal(step.trained_table(keep(True, True, True, True)).total(), first)
    step.confidence()
    assert calls == [4]


def test_without_pasted_images_the_augmented_view_is_the_original(
    engine: Engine, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Batch([copy.copy(sample) for sample in batch.samples])
    for sample in plain.samples:
        sample.augmented = None
    calls = count_passes(engine, monkeypatch)
    step = step_of(engine, plain)
    original = step.losses(ViewKind.ORIGINAL, grad=True).total()
    assert torch.equal(step.losses(ViewKind.AUGMENTED, grad=True).total(), original)
    assert torch.equal(step.trained_table(keep(True, True, True, True)).total(), original)
    assert step.confidence().isnan().all()
    assert calls == [4]


def test_only_trained_views_move_batch_norm_statistics(config: RunConfig, batch: Batch) -> None:
    moved = {}
    for name, also_augmented in (("original alone", False), ("after a rejected augmented pass", True)):
        torch.manual_seed(0)
        engine = create(config, 24, np.full(24, 10))
        before = statistics(engine)
        step = step_of(engine, batch)
        if also_augmented:
            step.losses(ViewKind.AUGMENTED, grad=True)
            step.losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=True)
            assert all(torch.equal(v, before[k]) for k, v in statistics(engine).items())
        step.trained_table(keep(False, False, False, False))
        moved[name] = statistics(engine)
        assert any(not torch.equal(v, before[k]) for k, v in moved[name].items())
    first, second = moved.values()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_mixed_selection_takes_each_image_from_its_kept_view(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    mixed = step.trained_table(keep(True, False, True, False))
    augmented, original = step.losses(ViewKind.AUGMENTED, grad=True), step.losses(ViewKind.ORIGINAL, grad=True)
    for name, loss in mixed.losses.items():
        assert torch.equal(loss.sum[[0, 2]], augmented.losses[name].sum[[0, 2]])
        assert torch.equal(loss.sum[[1, 3]], original.losses[name].sum[[1, 3]])


def test_gradients_fill_the_buffer_in_place_and_leave_training_gradients_alone(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    parameters = engine.parameters(Scope.all)
    training = FlatGradient(parameters)
    training.attach()
    training.buffer.fill_(7.0)
    loss = step.losses(ViewKind.AUGMENTED, grad=True).total(LossKind.CLASSIFICATION)
    out = torch.empty(step.num_parameters())
    assert step.gradient(loss, out=out) is out
    expected = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    for found, wanted in zip(FlatGradient(parameters, out).views, expected, strict=True):
        torch.testing.assert_close(found, torch.zeros_like(found) if wanted is None else wanted, rtol=0, atol=0)
    assert training.buffer.eq(7.0).all()
    assert all(p.grad is view for p, view in zip(parameters, training.views, strict=True))


def test_losses_after_a_step_are_those_of_moved_weights_and_the_weights_come_back(engine: Engine, batch: Batch) -> None:
    step = step_of(engine, batch)
    before = {k: v.clone() for k, v in engine.module.state_dict().items()}
    after = step.losses_after_step(ViewKind.AUGMENTED, 0.01, Proposals.GROUND_TRUTH).total()
    assert all(torch.equal(v, before[k]) for k, v in engine.module.state_dict().items())

    gradient = step.gradient(step.losses(ViewKind.AUGMENTED, grad=True).total())
    with torch.no_grad():
        for parameter, part in zip(
            engine.parameters(Scope.all), FlatGradient(engine.parameters(Scope.all), gradient).views, strict=True
        ):
            parameter -= 0.01 * part
    moved = (
        step_of(engine, batch)
        .losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=True)
        .total()
    )
    torch.testing.assert_close(after, moved, rtol=1e-6, atol=0)


def test_training_goes_on_from_a_graph_that_other_passes_did_not_spoil(engine: Engine, batch: Batch) -> None:
    """The augmented graph is differentiated after a reference pass, an SGD step and back, and an original pass."""
    direct = step_of(engine, batch)
    expected = direct.gradient(direct.losses(ViewKind.AUGMENTED, grad=True).total()).clone()
    step = step_of(engine, batch)
    table = step.losses(ViewKind.AUGMENTED, grad=True)
    step.losses_after_step(ViewKind.AUGMENTED, 0.5)
    step.losses(ViewKind.ORIGINAL, grad=True)
    torch.testing.assert_close(step.gradient(table.total()), expected, rtol=0, atol=0)
