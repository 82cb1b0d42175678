"""Steps of the conformance kit's tiny detector, and what BSGAL's tests compute of them by hand."""

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.conformance.tiny import TinyDataset, TinyEngine, tiny_pool
from methods.conformance.world import tiny_batch
from methods.contract import LossKind, Method, Proposals, Scope, Start, ViewKind

STEPS = 4
DATASET = TinyDataset()


def started(method: Method, needed: tuple[dict[str, object], ...] = ()) -> Method:
    method.validate()
    method.start(Start(STEPS, torch.device("cpu"), 4, DATASET, tiny_pool(), needed))
    return method


def step_at(
    iteration: int,
    engine: TinyEngine | None = None,
    pasted: tuple[int, ...] = (0, 2),
    references: int = 4,
    of: int = STEPS,
) -> TrainingStep:
    batch = tiny_batch(100 * iteration, pasted, references)
    return TrainingStep(engine or TinyEngine(), batch, StepPosition(0, iteration, of), Ranks())


def steps(number: int = STEPS) -> Iterator[TrainingStep]:
    engine = TinyEngine()
    return (step_at(iteration, engine, of=number) for iteration in range(number))


def gradient(engine: TinyEngine, loss: Tensor, scope: Scope = Scope.all) -> Tensor:
    parts = torch.autograd.grad(loss, engine.parameters(scope), materialize_grads=True, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def reference_loss(step: TrainingStep, proposals: Proposals = Proposals.GROUND_TRUTH) -> Tensor:
    return step.losses(ViewKind.REFERENCE, proposals, backbone_in_eval=True, grad=True).total(LossKind.CLASSIFICATION)


def pasted_loss(step: TrainingStep) -> Tensor:
    return step.losses(ViewKind.AUGMENTED, grad=True).pasted_total(LossKind.CLASSIFICATION)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm() + 1e-8))
