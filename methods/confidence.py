"""Keeps pasted instances whose label the detector believes, where its belief parts a category's instances in two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods import filters
from methods.contract import DatasetFacts, Need, Pool, Selection, Start, Step
from methods.registry import register
from methods.running import CategoryWindows, reaching
from methods.two_groups import dividing_line
from methods.xpaste import PoolPasting

LEAST = 1e-4  # of a confidence and of what it lacks to 1, so that its log-odds are finite
REFITS = 8  # of a category's line while its window fills once


@register("confidence")
@dataclass
class Confidence(PoolPasting):
    """Leaves out instances whose label the detector hardly believes, where a category's instances are of two kinds.

    The detector's probability of the label in the instance's own box is its confidence. Where the log-odds of a
    category's confidences fall into two groups, the lower one is left out; where they are one group, all are kept. So
    neither a level nor the share of bad instances need be known, and a clean pool stays as it is.

    In training, an instance is judged by the last `window` confidences of its category, once there are `warmup` of
    them. What is left out is ignored, and the rest of the image trains as it is. With `scores`, a ranking by confidence
    as `harness score` writes it, the pool is judged once before training, and others are drawn in place of what is left
    out. per_category=false draws one line for all categories. A detector that has not learnt the categories believes no
    label: start from one that has (init_from, weights).
    """

    paper = "beyond the papers; two groups by a mixture as in DivideMix, arXiv 2002.07394"

    window: int = 64
    warmup: int = 16
    per_category: bool = True
    scores: str | None = None

    def validate(self) -> None:
        super().validate()
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup is {self.warmup}, and must lie in 1..window={self.window}")
        if self.scores is not None:
            self.refuse_if_set("judging in training (no scores)", "window", "warmup")

    def required(self) -> frozenset[Need]:
        in_training = self.scores is None
        return frozenset({Need.INSTANCE_ATTRIBUTION, Need.INSTANCE_CONFIDENCE} if in_training else ())

    def files(self) -> dict[str, Path]:
        return {"scores": Path(self.scores)} if self.scores else {}

    def decides(self) -> bool:
        return self.scores is None

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = super().prepare(pool, dataset, rng)
        if self.scores is None or len(pool) == 0:
            return pool
        scores = filters.listed_scores(Path(self.scores), pool)
        label = pool.categories if self.per_category else np.zeros_like(pool.categories)
        kept = ~np.isnan(scores)
        for each in np.unique(label[kept]):
            own = np.flatnonzero(kept & (label == each))
            line = dividing_line(log_odds(scores[own]))
            kept[own] = math.isnan(line) | (log_odds(scores[own]) >= line)
        return pool.subset(np.flatnonzero(kept))

    def start(self, start: Start) -> None:
        self._windows = CategoryWindows(self.window)
        self._line: dict[int, float] = {}  # by category, a confidence; NaN where there is none
        self._since: dict[int, int] = {}  # how many confidences came after it

    def select(self, step: Step) -> Selection:
        everything = torch.ones_like(step.has_pasted)
        if self.scores is not None or not step.any_pasted:
            return Selection(everything, decided=False)
        confidence = step.confidence()
        instances = step.instances
        step.log("confidence/mean", confidence[instances.pasted].mean())
        labels = instances.labels[instances.pasted].tolist() if self.per_category else None
        values = confidence[instances.pasted].tolist()
        labels = labels or [0] * len(values)
        # All are judged by what came before the step, so their order in it plays no part.
        threshold = torch.full_like(confidence, math.nan)
        lines = [self._line.get(label, math.nan) for label in labels]
        threshold[instances.pasted] = torch.tensor(lines, dtype=threshold.dtype, device=threshold.device)
        for label, value in zip(labels, values, strict=True):
            self._windows.add(label, value)
            self._since[label] = self._since.get(label, 0) + 1
        for label in set(labels):
            self._refit(label)
        return Selection(everything, confidence, threshold, instances=reaching(confidence, threshold))

    def _refit(self, label: int) -> None:
        due = label not in self._line or self._since[label] >= self.window // REFITS
        if due and self._windows.seen(label) >= self.warmup:
            line = dividing_line(log_odds(self._windows.values(label)))
            self._line[label], self._since[label] = 1 / (1 + math.exp(-line)), 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "windows": self._windows.state_dict(),
            "line": {str(label): line for label, line in self._line.items()},
            "since": {str(label): count for label, count in self._since.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows.load_state_dict(state["windows"])
        self._line = {int(label): line for label, line in state["line"].items()}
        self._since = {int(label): count for label, count in state["since"].items()}


def log_odds(confidence: np.ndarray) -> np.ndarray:
    """Of probabilities in 0..1, finite."""
    within = confidence.clip(LEAST, 1 - LEAST)
    odds: np.ndarray = np.log(within / (1 - within))
    return odds
