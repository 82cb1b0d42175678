"""Draws what was pasted least so far: a feedback whose figures are exact, so that its draws can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from methods.contract import DatasetFacts, Draw, ImageFacts, Pool, Selection, Start, Step
from methods.registry import register
from methods.xpaste import PoolPasting


@register("balancing")
@dataclass
class Balancing(PoolPasting):
    """Draws a category the more rarely the more often it was pasted, from half of its rows that `prepare` chooses."""

    lag = 3

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        self._first_choice = rng.random(len(pool)) < 0.5
        return pool

    def start(self, start: Start) -> None:
        self._pasted = torch.zeros(int(start.pool.categories.max()) + 1, dtype=torch.float64)

    def select(self, step: Step) -> Selection:
        instances = step.instances
        counts = torch.bincount(instances.labels[instances.pasted], minlength=len(self._pasted)).double()
        self._pasted += step.average(counts / len(step.has_pasted))
        return Selection(torch.ones_like(step.has_pasted), decided=step.any_pasted)

    def policy(self) -> np.ndarray:
        return self._pasted.numpy()

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator, policy: np.ndarray | None = None) -> Draw:
        weight = self._first_choice.astype(float)
        if policy is not None:
            weight /= (1 + 4 * policy[pool.categories]) ** 2
        return Draw(rows=rng.choice(len(pool), 3, p=weight / weight.sum()))

    def state_dict(self) -> dict[str, Any]:
        return {"pasted": self._pasted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pasted = state["pasted"]
