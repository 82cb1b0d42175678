"""A bandit that draws from the pool's sources or categories by how much pasting them has paid off."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import last_layer, references
from methods.contract import (
    DatasetFacts,
    Draw,
    ImageFacts,
    LossKind,
    Need,
    Pool,
    Selection,
    Start,
    Step,
    ViewKind,
)
from methods.last_layer import ClassGradients
from methods.registry import register
from methods.running import CategoryWindows
from methods.xpaste import DrawBy, PoolPasting


class Arms(Enum):
    """What the bandit chooses between: the pool's sources, its column `generator`, or its categories."""

    source = "source"
    category = "category"


class Reward(Enum):
    """What a pasted instance earns its arm.

    confidence: the detector's in its label. contribution: the product of its gradient with real images', in the last
    layers. loss_drop: how far its loss lies below the median of the last `window` ones of its arm.
    """

    confidence = "confidence"
    contribution = "contribution"
    loss_drop = "loss_drop"


NEEDS = {
    Reward.confidence: {Need.INSTANCE_CONFIDENCE},
    Reward.contribution: {Need.INSTANCE_ATTRIBUTION, Need.LAST_LAYER, Need.GROUND_TRUTH_PROPOSALS},
    Reward.loss_drop: {Need.INSTANCE_ATTRIBUTION},
}


@register("bandit")
@dataclass
class Bandit(PoolPasting):
    """Pastes more from the sources or categories that have paid off so far, by EXP3.

    An instance's reward is its rank (0..1) among the last `window` ones. Draws follow the arms' weights, mixed with
    uniform ones by the share `gamma`, and take effect `lag` steps later. Everything that is pasted is kept.
    """

    paper = "EXP3 (Auer et al., SIAM J. Comput. 2002), rewards by rank as in Graves et al. 2017, arXiv 1704.03003"

    arms: Arms = Arms.source
    reward: Reward = Reward.confidence
    gamma: float = 0.2
    window: int = 512

    def validate(self) -> None:
        super().validate()
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}, and must lie in 0..1, above 0")
        if self.window < 1:
            raise ValueError(f"window is {self.window}, and must be at least 1")
        if self.draw_by is not DrawBy.category:
            raise ValueError("bandit draws by its arms: do not set draw_by")

    def required(self) -> frozenset[Need]:
        return frozenset(NEEDS[self.reward])

    # ------------------------------------------------------------------------------------------------- the draws' side

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = super().prepare(pool, dataset, rng)
        arm = self._arm_of_row(pool)
        self._rows = np.argsort(arm, kind="stable")
        self._ends = np.cumsum(np.bincount(arm))
        return pool

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator, policy: np.ndarray | None = None) -> Draw:
        count = int(rng.integers(0, self.max_samples))
        if count == 0 or len(pool) == 0:
            return Draw()
        chosen = rng.choice(len(self._ends), count, p=policy)
        begin = np.concatenate([[0], self._ends[:-1]])
        return Draw(rows=self._rows[rng.integers(begin[chosen], self._ends[chosen])])

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int:
        return references.of_drawn_class(draw, dataset, rng)

    def uses_reference(self) -> bool:
        return self.reward is Reward.contribution

    def _arm_of_row(self, pool: Pool) -> np.ndarray:
        """(N,) int64, 0-based, without gaps. Raises ValueError for a pool without sources."""
        if self.arms is Arms.source and len(pool) and "generator" not in pool.columns:
            raise ValueError("the pool has no column generator: method.arms=category needs none")
        of = pool.column("generator") if self.arms is Arms.source and len(pool) else pool.categories
        return np.unique(of, return_inverse=True)[1].astype(np.int64)

    # ---------------------------------------------------------------------------------------------- the detector's side

    def start(self, start: Start) -> None:
        arm = self._arm_of_row(start.pool)
        self._arm = torch.from_numpy(arm).to(start.device)
        count = int(arm.max(initial=0)) + 1
        self._log_weight = np.zeros(count)
        # The first is what this step's draws heeded, the last what those `lag` steps later will.
        self._chances = deque([np.full(count, 1 / count)] * self.lag, maxlen=self.lag)
        self._rewards, self._losses = CategoryWindows(self.window), CategoryWindows(self.window)
        self._reference = ClassGradients(0.9)

    def select(self, step: Step) -> Selection:
        instances = step.instances
        value = self._value(step).masked_fill(~instances.pasted, torch.nan)
        known = ~value.isnan()
        arms, values = self._arm[instances.pool_row[known]].tolist(), value[known].tolist()
        if self.reward is Reward.loss_drop:
            values = self._drops(arms, values)
        self._learn(step, arms, values)
        return Selection(torch.ones_like(step.has_pasted), value if step.any_pasted else None, decided=False)

    def policy(self) -> np.ndarray:
        return self._chances[-1]

    def _value(self, step: Step) -> Tensor:
        """(n, G): the reward of each pasted instance; NaN if there is none yet."""
        if self.reward is Reward.contribution:
            self._reference.update(step)
        pasted, reference = step.instances.pasted, self._reference.mean
        if not step.any_pasted or (self.reward is Reward.contribution and reference is None):
            return torch.full(pasted.shape, torch.nan, device=pasted.device)
        if self.reward is Reward.confidence:
            return step.confidence()
        table = step.losses(ViewKind.AUGMENTED)
        if self.reward is Reward.loss_drop:
            return table.per_instance(LossKind.CLASSIFICATION)
        assert reference is not None
        return last_layer.of_instances(table, pasted, reference)[0]

    def _drops(self, arms: list[int], losses: list[float]) -> list[float]:
        """How far each loss lies below the median of its arm's last ones; NaN for an arm's first ones."""
        drops = [
            self._losses.quantile(a, 0.5) - x if self._losses.seen(a) else np.nan
            for a, x in zip(arms, losses, strict=True)
        ]
        for arm, loss in zip(arms, losses, strict=True):
            self._losses.add(arm, loss)
        return drops

    def _learn(self, step: Step, arms: list[int], values: list[float]) -> None:
        """EXP3's update by the mean over what was pasted on all ranks; every rank takes part in every step."""
        count = len(self._log_weight)
        earned, chance = np.zeros(count + 1), self._chances[0]
        judged = [(arm, value) for arm, value in zip(arms, values, strict=True) if not np.isnan(value)]
        for arm, value in judged:
            reward = self._rewards.rank(0, value) if self._rewards.seen(0) else 0.5
            earned[arm] += reward / chance[arm]
            earned[count] += 1
        for _, value in judged:
            self._rewards.add(0, value)
        everywhere = step.average(torch.tensor(earned, device=step.has_pasted.device)).tolist()
        if everywhere[count] > 0:
            self._log_weight += self.gamma / count * np.array(everywhere[:count]) / everywhere[count]
        weight = np.exp(self._log_weight - self._log_weight.max())
        self._chances.append((1 - self.gamma) * weight / weight.sum() + self.gamma / count)
        step.log("bandit/most", self._chances[-1].max())

    def state_dict(self) -> dict[str, Any]:
        return {
            "log_weight": self._log_weight.tolist(),
            "chances": [chance.tolist() for chance in self._chances],
            "rewards": self._rewards.state_dict(),
            "losses": self._losses.state_dict(),
            "reference": self._reference.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._log_weight = np.array(state["log_weight"])
        self._chances.extend(np.array(chance) for chance in state["chances"])
        self._rewards.load_state_dict(state["rewards"])
        self._losses.load_state_dict(state["losses"])
        self._reference.load_state_dict(state["reference"])
