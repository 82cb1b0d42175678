"""Self-paced learning: easy pasted instances first, and more of them as training continues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from methods.contract import LossKind, LossTable, Need, Selection, Start, Step, ViewKind
from methods.registry import register
from methods.running import InstanceThresholds, reaching
from methods.xpaste import PoolPasting


class Ease(Enum):
    """What makes an instance easy: a low classification loss of its regions, or the detector's confidence in it."""

    loss = "loss"
    confidence = "confidence"


@register("self_paced")
@dataclass
class SelfPaced(PoolPasting):
    """Keeps the easiest share of pasted instances and ignores the others; the share rises during training.

    It rises linearly from `share_start` to `share_end`, which it reaches at `full_at` (0..1) of the schedule. Instances
    are compared with the last `window` ones of their category, so that no category is left out as a whole (with those
    of all, with per_category=false). The first `warmup` are always kept.
    """

    paper = (
        "Self-paced learning (Kumar et al., NIPS 2010), by category as in SPL with diversity (Jiang et al., NIPS 2014)"
    )

    by: Ease = Ease.loss
    share_start: float = 0.3
    share_end: float = 1.0
    full_at: float = 1.0
    window: int = 64
    warmup: int = 8
    per_category: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 < self.share_start < self.share_end <= 1:
            raise ValueError(f"share_start {self.share_start} and share_end {self.share_end} must rise within 0..1")
        if not 0 < self.full_at <= 1:
            raise ValueError(f"full_at is {self.full_at}, and must lie in 0..1, above 0")
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup is {self.warmup}, and must lie in 1..window={self.window}")

    def required(self) -> frozenset[Need]:
        needs = {Need.INSTANCE_ATTRIBUTION}
        return frozenset(needs | {Need.INSTANCE_CONFIDENCE} if self.by is Ease.confidence else needs)

    def start(self, start: Start) -> None:
        self._thresholds = InstanceThresholds(self.window, self.warmup, self.per_category)

    def select(self, step: Step) -> Selection:
        everything = torch.ones_like(step.has_pasted)
        if not step.any_pasted:
            return Selection(everything, decided=False)
        share = self.share(step.progress)
        step.log("self_paced/share", share)
        ease = step.confidence() if self.by is Ease.confidence else -region_loss(step.losses(ViewKind.AUGMENTED))
        ease = ease.masked_fill(~step.instances.pasted, math.nan)
        threshold = self._thresholds.judge(step.instances, ease, max(0.0, 1 - share))
        if share >= 1:  # the least easy one yet stays too
            threshold = torch.full_like(threshold, math.nan)
        return Selection(everything, ease, threshold, instances=reaching(ease, threshold))

    def share(self, progress: float) -> float:
        """The share that is kept at `progress` (0..1) of the schedule."""
        return self.share_start + (self.share_end - self.share_start) * min(1.0, progress / self.full_at)

    def state_dict(self) -> dict[str, Any]:
        return self._thresholds.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._thresholds.load_state_dict(state)


def region_loss(table: LossTable) -> Tensor:
    """(n, G) each instance's mean classification loss over its regions; NaN where it has none.

    A mean, since a large instance has more regions and is no harder for it.
    """
    total, regions = [], []
    for name in table.names(LossKind.CLASSIFICATION):
        belongs = table.losses[name].attribution
        if belongs is None:
            raise ValueError(f"the engine does not say which instance the terms of {name} belong to")
        total.append(belongs.by_instance(belongs.terms))
        regions.append(belongs.by_instance(belongs.units))
    return torch.stack(total).sum(0) / torch.stack(regions).sum(0)
