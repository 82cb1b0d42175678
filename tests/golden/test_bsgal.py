"""BSGAL's steps against figures of the published code, through the training step that training takes.

Held-back files of the same kinds are read from the folder that the environment variable GOLDEN_DIR names.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config import Precision
from harness.data.sample import Batch, Sample, View
from harness.engine.native import NativeEngine
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.bsgal import BSGAL, Estimator, Mode
from methods.contract import Scope, Selection, Start, ViewKind
from tests.golden import published_detector as made

HEIGHT, WIDTH, IMAGES = 224, 256, 2
START = {"bsgal_": (1, 11), "heldout_bsgal_": (2, 500)}  # salt of the weights, first seed
FILES = made.golden_files(*START)
# By the kind of file. The methods of a mode take their steps together.
METHODS = {
    "r50": BSGAL(),
    "r50_rejected": BSGAL(tau=0.5),
    "or_ori_gradient": BSGAL(mode=Mode.paste_or_ori),
    "or_ori_loss_difference": BSGAL(mode=Mode.paste_or_ori, estimator=Estimator.loss_difference),
}
STEPS = {Mode.paste_only: 3, Mode.paste_or_ori: 2}
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


class Step(TrainingStep):
    """Takes a loss's gradient once for the two methods that ask: they see the same weights and batches."""

    def __init__(self, salt: int, first: int, t: int) -> None:
        batch = Batch([sample(first + 100 * t + 10 * i) for i in range(IMAGES)])
        super().__init__(engine(salt), batch, StepPosition(0, t, 3), Ranks())
        self._gradients: dict[float, Tensor] = {}

    def gradient(
        self, loss: Tensor, scope: Scope = Scope.all, out: Tensor | None = None, *, keep_graph: bool = True
    ) -> Tensor:
        value = float(loss.detach())
        if (known := self._gradients.pop(value, None)) is None:
            known = self._gradients[value] = super().gradient(loss, scope, keep_graph=keep_graph)
        return known if out is None else out.copy_(known)


@dataclass
class Decided:
    """What a method decided on a step and logged, and the losses that the step then trains on, by name and in all."""

    selection: Selection
    logged: dict[str, float]
    losses: dict[str, float]
    total: float
    total_of_views: dict[ViewKind, float]


@cache
def decided(mode: Mode, salt: int, first: int) -> dict[str, list[Decided]]:
    """The steps of the mode's methods by the kind of file. No method may change the weights."""
    methods = {kind: copy.deepcopy(method) for kind, method in METHODS.items() if method.mode is mode}
    for method in methods.values():
        method.validate()
        method.start(Start(3, torch.device("cpu"), IMAGES, dataset=None, pool=None))  # type: ignore[arg-type]
    weights = [parameter.clone() for parameter in engine(salt).module.parameters()]
    found: dict[str, list[Decided]] = {kind: [] for kind in methods}
    for t in range(STEPS[mode]):
        step = Step(salt, first, t)
        for kind, method in methods.items():
            found[kind].append(decision(method, step))
            assert all(torch.equal(a, b) for a, b in zip(weights, engine(salt).module.parameters(), strict=True))
    return found


def steps_of(file: Path) -> list[Decided]:
    kind = kind_of(file)
    return decided(METHODS[kind].mode, *start_of(file))[kind]


def figures_of(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as stored:
        return dict(stored)


def decision(method: BSGAL, step: Step) -> Decided:
    selection = method.select(step)
    table = step.trained_table(selection)
    return Decided(
        replace(selection, gradient=None),
        logged={name: float(value) for name, value in step.logged.items()},
        losses={name: float(value.detach()) for name, value in step.batch_losses(table).items()},
        total=float(table.total().detach()),
        total_of_views={view: float(step.losses(view).total()) for view in (ViewKind.ORIGINAL, ViewKind.AUGMENTED)},
    )


def test_the_four_shipped_files_are_there() -> None:
    kinds = {kind_of(file) for file in FILES}
    assert kinds == METHODS.keys()


@each_file("r50", "r50_rejected")
def test_paste_only(file: Path) -> None:
    golden = figures_of(file)
    rejected = kind_of(file) == "r50_rejected"
    for t, step in enumerate(steps_of(file)):
        contribution = golden["contribution"][t]
        assert float(step.selection.contribution) == pytest.approx(contribution, rel=CONTRIBUTION)
        norms = [step.logged[f"contribution/{name}_norm"] for name in ("reference", "pasted")]
        assert norms == pytest.approx(golden["norm_reference_and_pasted"][t].tolist(), rel=CONTRIBUTION)
        assert step.selection.keep.tolist() == [not rejected] * IMAGES
        assert step.total == step.total_of_views[ViewKind.ORIGINAL if rejected else ViewKind.AUGMENTED]
        assert step.losses == pytest.approx(_final_losses(golden, t), rel=LOSS)


@each_file("or_ori_gradient")
def test_paste_or_ori_by_gradient(file: Path) -> None:
    golden = figures_of(file)
    for t, step in enumerate(steps_of(file)):
        augmented, original = (golden[f"contribution_{view}"][t] for view in ("augmented", "original"))
        assert float(step.selection.contribution) == pytest.approx(augmented, rel=CONTRIBUTION)
        assert float(step.selection.threshold) == pytest.approx(original, rel=CONTRIBUTION)
        assert_kept(step.selection, augmented >= original)


@each_file("or_ori_loss_difference")
def test_paste_or_ori_by_loss_difference(file: Path) -> None:
    golden = figures_of(file)
    for t, step in enumerate(steps_of(file)):
        after = {name: golden[f"reference_loss_after_{name}"][t] for name in ("original", "augmented")}
        for name, value in after.items():
            assert step.logged[f"reference_loss/after_{name}"] == pytest.approx(value, rel=LOSS)
        assert_kept(step.selection, after["augmented"] < after["original"])


def assert_kept(selection: Selection, expected: bool) -> None:
    assert selection.keep.tolist() == [bool(expected)] * IMAGES


def _final_losses(golden: dict[str, np.ndarray], step: int) -> dict[str, float]:
    losses: dict[str, float] = json.loads(str(golden["final_losses"][step]))
    return losses
