"""Keeps pasted instances whose label the detector believes: judged once before training, or each as it is pasted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from methods import filters
from methods.contract import DatasetFacts, Need, Pool, Selection, Start, Step
from methods.registry import register
from methods.running import CategoryWindows, reaching
from methods.two_groups import in_higher_group
from methods.xpaste import PoolPasting

BEST = 0.9  # the quantile of a category's recent confidences that `level` is a share of
LEAST = 1e-4  # of a confidence and of what it lacks to 1, so that its log-odds are finite
IN_TRAINING = ("level", "window", "warmup")


@register("confidence")
@dataclass
class Confidence(PoolPasting):
    """Leaves out pasted instances whose label the detector hardly believes.

    The detector's probability of the label in the instance's own box is its confidence. A detector that has not learnt
    the categories believes no label: start from one that has (init_from, weights).

    With `scores`, a ranking by confidence as `harness score` writes it, the pool is judged once before training. Where
    the log-odds of a category's scores fall into two groups, the lower one is left out, and others are drawn in its
    place; where they are one group, all stay. Where that is doubtful in a category, the others of the pool decide: if
    most have two groups, so has it, and if hardly any has, none has. So the share of bad instances need not be known,
    and a clean pool stays as it is. An instance without a score is left out.

    Without, each instance is judged as it is pasted, by the detector as it is then. It stays when its confidence
    reaches `level` times the 0.9 quantile of the last `window` ones of its category; `warmup`: so many of a category
    stay first, whatever they are. The others are ignored, and the rest of the image trains as it is. One look at a
    crowded image tells less, and on a clean pool this loses against keeping everything:
    docs/explanation/selection.md.

    per_category=false judges by all categories together.
    """

    paper = "beyond the papers; two groups by a mixture as in DivideMix, arXiv 2002.07394"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INSTANCE_ATTRIBUTION, Need.INSTANCE_CONFIDENCE})

    scores: str | None = None
    level: float = 0.25
    window: int = 64
    warmup: int = 8
    per_category: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.level <= 1:
            raise ValueError(f"level is {self.level}, and must lie in 0..1")
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup is {self.warmup}, and must lie in 1..window={self.window}")
        if self.scores is not None:
            self.refuse_if_set("judging in training, without scores", *IN_TRAINING)

    def required(self) -> frozenset[Need]:
        return self.needs if self.scores is None else frozenset()

    def decides(self) -> bool:
        return self.scores is None

    def files(self) -> dict[str, Path]:
        return {"scores": Path(self.scores)} if self.scores else {}

    # --------------------------------------------------------------------------------------------- before training

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = super().prepare(pool, dataset, rng)
        if self.scores is None or len(pool) == 0:
            return pool
        odds = log_odds(filters.listed_scores(Path(self.scores), pool))
        label = pool.categories if self.per_category else np.zeros_like(pool.categories)
        return pool.subset(np.flatnonzero(in_higher_group(odds, label)))

    # ------------------------------------------------------------------------------------------------- in training

    def start(self, start: Start) -> None:
        self._windows = CategoryWindows(self.window)

    def select(self, step: Step) -> Selection:
        everything = torch.ones_like(step.has_pasted)
        if self.scores is not None or not step.any_pasted:
            return Selection(everything, decided=False)
        confidence = step.confidence()
        instances = step.instances
        step.log("confidence/mean", confidence[instances.pasted].mean())
        place = instances.pasted.nonzero()
        labels = instances.labels[instances.pasted].tolist() if self.per_category else [0] * len(place)
        threshold = torch.full_like(confidence, math.nan)
        # All are judged by what came before the step, so their order in it plays no part.
        for (image, column), label in zip(place.tolist(), labels, strict=True):
            if self._windows.seen(label) >= self.warmup:
                threshold[image, column] = self.level * self._windows.quantile(label, BEST)
        for label, value in zip(labels, confidence[instances.pasted].tolist(), strict=True):
            self._windows.add(label, value)
        return Selection(everything, confidence, threshold, instances=reaching(confidence, threshold))

    def state_dict(self) -> dict[str, Any]:
        return {"windows": self._windows.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows.load_state_dict(state["windows"])


def log_odds(confidence: np.ndarray) -> np.ndarray:
    """Of probabilities in 0..1, finite; NaN of NaN."""
    within = confidence.clip(LEAST, 1 - LEAST)
    odds: np.ndarray = np.log(within / (1 - within))
    return odds
