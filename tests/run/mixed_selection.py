"""A method for tests: all that a selection can say at once, by image and by instance."""

from dataclasses import dataclass
from typing import Any

import torch

from methods.contract import Selection, Start, Step
from methods.registry import register
from methods.running import InstanceThresholds, reaching
from methods.xpaste import PoolPasting


@register("mixed_selection")
@dataclass
class MixedSelection(PoolPasting):
    """Rejects images by chance; leaves instances out of the others by confidence, and weights by it what stays."""

    def start(self, start: Start) -> None:
        self._thresholds = InstanceThresholds(window=16, warmup=1, per_category=False)

    def select(self, step: Step) -> Selection:
        if not step.any_pasted:
            return Selection(torch.ones_like(step.has_pasted), decided=False)
        keep = torch.tensor(step.rng.random(len(step.has_pasted)), device=step.has_pasted.device) < 0.7
        confidence = step.confidence()
        threshold = self._thresholds.judge(step.instances, confidence, share=0.5)
        instances = reaching(confidence, threshold)
        return Selection(keep, confidence, threshold, instances=instances, weight=0.5 + confidence.nan_to_num())

    def state_dict(self) -> dict[str, Any]:
        return self._thresholds.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._thresholds.load_state_dict(state)
