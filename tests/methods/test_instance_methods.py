"""Methods that judge or weight single pasted instances: their gradients in closed form, and that they train."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.compose import compose
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.data.sample import Batch
from harness.data.training import TrainingData, training_loader
from harness.engine import create
from harness.engine.contract import Engine
from harness.record.decision_log import write_decisions
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods import last_layer
from methods.contract import Instances, LossKind, Proposals, Scope, ViewKind
from methods.last_layer import ClassGradients
from methods.reweight import mean_one
from methods.running import InstanceThresholds
from methods.self_paced import SelfPaced, region_loss
from tests.small_training import TINY, SmallRun

BATCH = ["method=bsgal_instance", "method.max_samples=6", "data.pool=half_bad", "schedule.iterations=8"]


@pytest.fixture(scope="module")
def config(mini_root: Path) -> RunConfig:
    return compose([*TINY, *BATCH]).config


@pytest.fixture(scope="module")
def engine(config: RunConfig) -> Engine:
    dataset = Dataset(config.data)
    torch.manual_seed(0)
    engine = create(config, dataset.num_classes, dataset.train.image_counts)
    engine.module.double()  # sums in another order agree to the last digits
    return engine


@pytest.fixture(scope="module")
def batch(config: RunConfig) -> Batch:
    dataset = Dataset(config.data)
    data = TrainingData(dataset, 0, config.method, dataset.prepared_pool(config.method, 0))
    return next(each for each in training_loader(data, config.schedule) if each.has_pasted.all() and each.reference)


@pytest.fixture
def step(engine: Engine, batch: Batch) -> TrainingStep:
    return TrainingStep(engine, batch, StepPosition(0, 0, 8), Ranks())


def by_autograd(step: TrainingStep, loss: Tensor, like: Tensor) -> Tensor:
    """The gradient in the last layers as (S, C, F + 1); the column for the background is of no loss."""
    parts = []
    for layer in step.gradient(loss, Scope.last).chunk(len(like)):
        rows = len(layer) // like.shape[2]
        weight, bias = layer.split([rows * (like.shape[2] - 1), rows])
        parts.append(torch.cat([weight.view(rows, -1), bias[:, None]], 1))
    every = torch.stack(parts)
    assert not every[:, like.shape[1] :].any()
    return every[:, : like.shape[1]]


def test_the_reference_gradient_is_autograds(step: TrainingStep) -> None:
    found = ClassGradients(momentum=0.0)
    found.update(step)
    assert found.mean is not None
    assert not found.mean.requires_grad
    table = step.losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=True)
    held = torch.cat([view.targets.labels for view in step.batch.reference]).unique()
    expected = by_autograd(step, table.total(LossKind.CLASSIFICATION), found.mean)
    torch.testing.assert_close(found.mean[:, held], expected[:, held])
    others = torch.ones(found.mean.shape[1], dtype=torch.bool).index_fill(0, held, False)
    assert expected[:, others].abs().max() > 0
    assert not found.mean[:, others].any(), "a class moves where images hold it"


def test_products_and_norms_of_instances_are_autograds(step: TrainingStep) -> None:
    table = step.losses(ViewKind.AUGMENTED, grad=True)
    mean = ClassGradients(momentum=0.0)
    mean.update(step)
    assert mean.mean is not None
    pasted = step.instances.pasted
    products, norms = last_layer.of_instances(table, pasted, mean.mean)
    shares = table.per_instance(LossKind.CLASSIFICATION)
    assert pasted.sum() >= 3
    assert not products[~pasted].any()
    for place in pasted.nonzero():
        gradient = by_autograd(step, shares[tuple(place)], mean.mean)
        torch.testing.assert_close(products[tuple(place)], (gradient * mean.mean).sum())
        torch.testing.assert_close(norms[tuple(place)], torch.linalg.vector_norm(gradient))
    assert products[pasted].abs().min() > 0


def test_products_of_images_are_autograds(step: TrainingStep) -> None:
    """Background regions too, which belong to no instance."""
    table = step.losses(ViewKind.AUGMENTED, grad=True)
    mean = ClassGradients(momentum=0.0)
    mean.update(step)
    assert mean.mean is not None
    found = last_layer.of_images(table, mean.mean)
    for image, loss in enumerate(table.per_image(LossKind.CLASSIFICATION)):
        torch.testing.assert_close(found[image], (by_autograd(step, loss, mean.mean) * mean.mean).sum())


def test_an_instances_loss_is_the_mean_over_its_regions(step: TrainingStep) -> None:
    table = step.losses(ViewKind.AUGMENTED, grad=True)
    found = region_loss(table)
    for image, column in step.instances.pasted.nonzero().tolist():
        place = image * found.shape[1] + column
        own = [
            (loss.attribution.terms[loss.attribution.instance == place])
            for loss in table.losses.values()
            if loss.kind is LossKind.CLASSIFICATION and loss.attribution is not None
        ]
        torch.testing.assert_close(found[image, column], torch.cat(own).mean())


def test_weights_are_one_on_average_and_nothing_where_all_disagree() -> None:
    agreement = torch.tensor([[0.3, -1.0], [0.1, 7.0]])
    weighted = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(mean_one(agreement, weighted), torch.tensor([[2.25, 0.0], [0.75, 1.0]]))
    assert mean_one(-agreement.abs(), weighted).tolist() == [[0, 0], [0, 1]]


def test_thresholds_follow_what_came_before_by_category() -> None:
    def judged(thresholds: InstanceThresholds, labels: list[int], values: list[float]) -> list[float]:
        pasted = torch.ones(1, len(labels), dtype=torch.bool)
        instances = Instances(pasted, pasted.long(), torch.tensor([labels]), torch.zeros(1, len(labels), 4))
        return thresholds.judge(instances, torch.tensor([values]), share=0.5)[0].tolist()

    for per_category, expected in ((True, [2.0, float("nan")]), (False, [3.0, 3.0])):
        thresholds = InstanceThresholds(window=4, warmup=3, per_category=per_category)
        assert all(value != value for value in judged(thresholds, [7, 7, 7, 5, 5], [1.0, 2.0, 3.0, 9.0, float("nan")]))
        if not per_category:
            judged(thresholds, [7], [4.0])  # the window's fifth: 2, 3, 9, 4 are left
            expected = [3.5, 3.5]
        assert judged(thresholds, [7, 5], [0.0, 0.0]) == pytest.approx(expected, nan_ok=True)


def test_the_share_rises_to_its_end() -> None:
    method = SelfPaced(share_start=0.2, share_end=0.8, full_at=0.5)
    assert [method.share(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.2, 0.5, 0.8, 0.8])


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("self_paced", ["warmup=1", "share_start=0.1", "full_at=0.75"]),
        ("self_paced", ["warmup=1", "by=confidence"]),
        ("bsgal_instance", ["warmup=1"]),
        ("reweight", []),
        ("reweight", ["of=image"]),
    ],
)
def test_a_few_steps_on_mini(name: str, options: list[str], tmp_path: Path) -> None:
    chosen = [f"method={name}", *(f"method.{option}" for option in options), "data.pool=half_bad"]
    run = SmallRun([*chosen, "method.max_samples=8", "schedule.iterations=4"], tmp_path)
    assert run.run()
    run.trainer.decisions.save()
    write_decisions(tmp_path, 1, None)
    rows = pd.read_parquet(tmp_path / "decisions.parquet").query("decided")
    assert len(rows) >= 4
    if options == ["of=image"]:
        assert rows.contribution.notna().all()
        for each in rows[rows.pool_rows.map(len) > 0].itertuples():
            assert set(each.weights) == {each.weights[0]}, "an image's weight is that of all that was pasted into it"
            assert (each.weights[0] > 0) == (each.contribution > 0)
        return
    figures = rows.contributions.explode().astype(float)
    assert figures.notna().all()
    assert figures.nunique() > 4
    if name == "reweight":
        assert 0 == rows.weights.explode().min() < rows.weights.explode().max()
        return
    kept = rows.kept.explode().astype(bool)
    assert 0 < kept.mean() < 1
    if "full_at=0.75" in options:
        assert kept[rows.iteration == 3].all()
