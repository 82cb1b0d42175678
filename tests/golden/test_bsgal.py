"""BSGAL's steps against figures of the published code, through the training step that training takes.

Held-back files of the same kinds are read from the folder that the environment variable GOLDEN_DIR names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config import Precision
from harness.data.sample import Batch, Sample, View
from harness.engine.native import NativeEngine
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.bsgal import BSGAL, Estimator, Mode
from methods.contract import LossTable, Selection, Start, ViewKind
from tests.golden import published_detector as made

HEIGHT, WIDTH, IMAGES = 224, 256, 2
START = {"bsgal_": (1, 11), "heldout_bsgal_": (2, 500)}  # salt of the weights, first seed
FILES = made.golden_files(*START)
CONTRIBUTION, LOSS = 1e-3, 1e-4

pytestmark = pytest.mark.timeout(900)


def kind_of(file: Path) -> str:
    """r50, r50_rejected, or_ori_gradient or or_ori_loss_difference."""
    return file.stem.removeprefix("heldout_").removeprefix("bsgal_")


def start_of(file: Path) -> tuple[int, int]:
    return next(start for prefix, start in START.items() if file.name.startswith(prefix))


def each_file(*kinds: str) -> pytest.MarkDecorator:
    files = [file for file in FILES if kind_of(file) in kinds]
    return pytest.mark.parametrize("file", files, ids=[file.stem for file in files])


@cache
def engine(salt: int) -> NativeEngine:
    torch.set_num_threads(1)
    module = made.detector("resnet50", salt)
    module.sampler, module.federated = made.keep_by_rule, made.federated_by_rule
    return NativeEngine(module, Precision.fp32, channels_last=False)


def view(seed: int, count: int, pasted: int = 0) -> View:
    image = made.image(HEIGHT, WIDTH, seed).to(torch.uint8)
    return View(image, made.targets(HEIGHT, WIDTH, seed, count, pasted))


def sample(seed: int) -> Sample:
    return Sample(
        seed, seed, original=view(seed + 1, 3), augmented=view(seed, 6, pasted=3), references=(view(seed + 5, 4),)
    )


def published_steps(file: Path, number: int) -> Iterator[TrainingStep]:
    salt, first = start_of(file)
    for t in range(number):
        batch = Batch([sample(first + 100 * t + 10 * i) for i in range(IMAGES)])
        yield TrainingStep(engine(salt), batch, StepPosition(0, t, number), Ranks())


def started(method: BSGAL) -> BSGAL:
    method.validate()
    method.start(Start(3, torch.device("cpu"), IMAGES, dataset=None, pool=None))  # type: ignore[arg-type]
    return method


def figures_of(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as stored:
        return dict(stored)


def assert_losses_equal(step: TrainingStep, table: LossTable, golden: dict[str, float]) -> None:
    losses = {name: float(value.detach()) for name, value in step.batch_losses(table).items()}
    assert losses == pytest.approx(golden, rel=LOSS)


def test_the_four_shipped_files_are_there() -> None:
    kinds = {kind_of(file) for file in FILES}
    assert kinds == {"r50", "r50_rejected", "or_ori_gradient", "or_ori_loss_difference"}


@each_file("r50", "r50_rejected")
def test_paste_only(file: Path) -> None:
    golden = figures_of(file)
    rejected = kind_of(file) == "r50_rejected"
    method = started(BSGAL(tau=0.5 if rejected else None))
    for t, step in enumerate(published_steps(file, 3)):
        selection = method.select(step)
        assert float(selection.contribution) == pytest.approx(golden["contribution"][t], rel=CONTRIBUTION)
        norms = [float(step.logged[f"contribution/{name}_norm"]) for name in ("reference", "pasted")]
        assert norms == pytest.approx(golden["norm_reference_and_pasted"][t].tolist(), rel=CONTRIBUTION)
        assert selection.keep.tolist() == [not rejected] * IMAGES
        table = step.trained_table(selection)
        trained = ViewKind.ORIGINAL if rejected else ViewKind.AUGMENTED
        assert torch.equal(table.total(), step.losses(trained).total())
        assert_losses_equal(step, table, _final_losses(golden, t))


@each_file("or_ori_gradient")
def test_paste_or_ori_by_gradient(file: Path) -> None:
    golden = figures_of(file)
    method = started(BSGAL(mode=Mode.paste_or_ori))
    for t, step in enumerate(published_steps(file, 2)):
        selection = method.select(step)
        assert float(selection.contribution) == pytest.approx(golden["contribution_augmented"][t], rel=CONTRIBUTION)
        assert float(selection.threshold) == pytest.approx(golden["contribution_original"][t], rel=CONTRIBUTION)
        assert_kept(selection, golden["contribution_augmented"][t] >= golden["contribution_original"][t])


@each_file("or_ori_loss_difference")
def test_paste_or_ori_by_loss_difference(file: Path) -> None:
    golden = figures_of(file)
    method = started(BSGAL(mode=Mode.paste_or_ori, estimator=Estimator.loss_difference))
    weights = [parameter.clone() for parameter in engine(start_of(file)[0]).module.parameters()]
    for t, step in enumerate(published_steps(file, 2)):
        selection = method.select(step)
        after = {name: golden[f"reference_loss_after_{name}"][t] for name in ("original", "augmented")}
        for name, value in after.items():
            assert float(step.logged[f"reference_loss/after_{name}"]) == pytest.approx(value, rel=LOSS)
        assert_kept(selection, after["augmented"] < after["original"])
    assert all(torch.equal(a, b) for a, b in zip(weights, step.engine.module.parameters(), strict=True))


def assert_kept(selection: Selection, expected: bool) -> None:
    assert selection.keep.tolist() == [bool(expected)] * IMAGES


def _final_losses(golden: dict[str, np.ndarray], step: int) -> dict[str, float]:
    losses: dict[str, float] = json.loads(str(golden["final_losses"][step]))
    return losses
