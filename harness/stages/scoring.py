"""Scores of single instances by a frozen detector: its confidence in their labels, or what training on them would do.

A score is a function of a chunk of one category; (k,) float64, NaN where the instance could not be read or placed, or
its category has no reference image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import RunConfig, StageConfig
from harness.data.dataset import Dataset
from harness.data.sample import Batch, Sample, View
from harness.engine import engines_with
from harness.engine.contract import Engine
from harness.errors import UserError, nearest
from harness.stages.chunks import Chunk
from harness.stages.looks import Looks
from harness.stages.own_rule import OwnRule, read_rule
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.bsgal import ReferencePolicy
from methods.contract import LossKind, Need, Proposals, Scope, ViewKind

BY = ("confidence", "gradient", "loss_difference")
NEEDS = {
    "confidence": frozenset({Need.INSTANCE_CONFIDENCE, Need.GROUND_TRUTH_PROPOSALS}),
    "gradient": frozenset({Need.PASTED_ATTRIBUTION, Need.GROUND_TRUTH_PROPOSALS}),
    "loss_difference": frozenset({Need.PASTED_ATTRIBUTION, Need.GROUND_TRUTH_PROPOSALS}),
}
CLASSIFICATION = LossKind.CLASSIFICATION
POSITION = StepPosition(seed=0, iteration=0, total_iterations=1)  # one for all, so that every draw is the same
IMAGES_AT_ONCE = 8

Scorer = Callable[[Chunk], np.ndarray]


def check_score(stage: StageConfig) -> None:
    """Raises UserError for words that mean nothing and for a rule that cannot be read."""
    if is_file(stage.by):
        read_rule(Path(stage.by))
    elif stage.by not in BY:
        raise UserError(f"stage.by={stage.by}: neither a score nor a Python file; {nearest(stage.by, BY)}")
    for option, valid in (("scope", Scope), ("reference_policy", ReferencePolicy)):
        word, words = getattr(stage, option), [member.name for member in valid]
        if word not in words:
            raise UserError(f"stage.{option}={word}: {nearest(word, words)}")
    for option in ("hosts", "references"):
        if getattr(stage, option) < 1:
            raise UserError(f"stage.{option}={getattr(stage, option)}: must be at least 1")


def is_file(by: str) -> bool:
    """Whether a score is by a rule of the user's own."""
    return by.endswith(".py")


def scorer(config: RunConfig, dataset: Dataset, engine: Engine) -> Scorer:
    """The score that `config.stage` asks for. Raises UserError for one that the engine cannot give."""
    stage = config.stage
    if is_file(stage.by):
        return OwnRule(read_rule(Path(stage.by)), dataset, engine)
    missing = NEEDS[stage.by] - engine.capabilities
    if missing:
        able = ", ".join(engines_with(NEEDS[stage.by])) or "none that is installed"
        raise UserError(
            f"stage.by={stage.by} needs {', '.join(sorted(need.value for need in missing))}, which this model of "
            f"engine {config.engine.name} does not have; engines that do: {able}"
        )
    if stage.by == "confidence":
        return _Confidence(engine, Looks(dataset, dataset.pool, config.seed, stage.hosts))
    policy = ReferencePolicy[stage.reference_policy]
    return _Contribution(engine, Looks(dataset, dataset.pool, config.seed, stage.hosts, policy), stage)


class _Confidence:
    """The detector's probability of the instance's label in its box, the mean over host images, in 0..1."""

    def __init__(self, engine: Engine, looks: Looks) -> None:
        self.engine, self.looks = engine, looks
        self.device = next(engine.module.parameters()).device

    @torch.no_grad()
    def __call__(self, chunk: Chunk) -> np.ndarray:
        seen = [(i, _alone(s)) for i, row in enumerate(chunk.rows.tolist()) for s in self.looks.at(row)]
        total, count = np.zeros(len(chunk.rows)), np.zeros(len(chunk.rows))
        for first in range(0, len(seen), IMAGES_AT_ONCE):
            part = seen[first : first + IMAGES_AT_ONCE]
            for (place, _), value in zip(part, self._look([view for _, view in part]), strict=True):
                total[place] += value
                count[place] += 1
        with np.errstate(invalid="ignore"):
            return total / count

    def _look(self, views: Sequence[View]) -> list[float]:
        on_device = [view.to(self.device) for view in views]
        rng = torch.Generator(self.device).manual_seed(0)
        table = self.engine.losses(on_device, Proposals.GROUND_TRUTH, rng, backbone_in_eval=True)
        found: list[float] = self.engine.confidence(on_device, table)[:, 0].double().tolist()
        return found


def _alone(sample: Sample) -> View:
    """The pasted view with the pasted instance as its only target."""
    assert sample.augmented is not None
    targets = sample.augmented.targets
    return View(sample.augmented.image, targets[targets.pasted])


class _Contribution:
    """By how much training on the instance would lower the loss of its category's reference images.

    By gradient a cosine, by loss difference the drop of the loss after a small step.
    """

    def __init__(self, engine: Engine, looks: Looks, stage: StageConfig) -> None:
        self.engine, self.looks, self.stage = engine, looks, stage

    def __call__(self, chunk: Chunk) -> np.ndarray:
        references = self.looks.references(int(chunk.rows[0]), self.stage.references)
        category = _Category(self.engine, references, self.stage)
        return np.array([category.score(self.looks.at(row)) for row in chunk.rows.tolist()], np.float64)


class _Category:
    """Scores instances of one category against its reference images, whose gradient or loss is taken once."""

    def __init__(self, engine: Engine, references: Sequence[View], stage: StageConfig) -> None:
        self.engine, self.stage, self.scope = engine, stage, Scope[stage.scope]
        self.by_gradient = stage.by == "gradient"
        self.device = next(engine.module.parameters()).device
        self.references = [view.to(self.device) for view in references]
        if not self.references:
            return
        step = self._step([Sample(0, 0, view, None, (view,)) for view in self.references])
        loss = step.losses(
            ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=self.by_gradient
        ).total(CLASSIFICATION)
        self.before = loss.detach()
        if self.by_gradient:
            self.gradient = step.gradient(loss, self.scope, keep_graph=False)
            self.buffer = torch.empty_like(self.gradient)

    def score(self, hosts: Sequence[Sample]) -> float:
        if not hosts or not self.references:
            return float("nan")
        return float(torch.stack([self._score(sample) for sample in hosts]).mean())

    def _score(self, host: Sample) -> Tensor:
        # The host comes first; the other samples only contribute their reference images.
        others = [Sample(0, 0, view, None, (view,)) for view in self.references[1:]]
        first = dataclasses.replace(Batch([host]).to(self.device).samples[0], references=(self.references[0],))
        step = self._step([first, *others])
        table = step.losses(ViewKind.AUGMENTED, backbone_in_eval=True, images=1, grad=True)
        loss = table.pasted_total(CLASSIFICATION)
        if self.by_gradient:
            step.gradient(loss, self.scope, out=self.buffer, keep_graph=False)
            return torch.cosine_similarity(self.gradient, self.buffer, dim=0)
        after = step.losses_after_step(ViewKind.AUGMENTED, self.stage.probe_lr, Proposals.GROUND_TRUTH, loss=loss)
        return self.before - after.total(CLASSIFICATION)

    def _step(self, samples: list[Sample]) -> TrainingStep:
        return TrainingStep(self.engine, Batch(samples), POSITION, Ranks())
