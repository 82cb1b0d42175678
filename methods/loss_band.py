"""Beyond the papers: selection by the pasted loss itself, without reference images or gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from methods.contract import LossKind, Need, Selection, Start, Step, ViewKind
from methods.contribution import RunningWindow
from methods.registry import register
from methods.xpaste import PoolPasting


@register("loss_band")
@dataclass
class LossBand(PoolPasting):
    """Accepts pasted batches whose pasted loss lies in a middle band of the last ones.

    Easy instances teach the detector little, and the hardest often have a wrong label or a broken mask. A batch is
    accepted if its loss lies between the percentiles `low` and `high` (0..1) of the last `window` pasted losses; the
    first `warm_up` batches are all kept.
    """

    needs = frozenset({Need.PASTED_ATTRIBUTION})
    paper = "this benchmark"

    low: float = 0.1
    high: float = 0.8
    window: int = 500
    warm_up: int = 20

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low {self.low} and high {self.high} must rise within 0..1")
        if not 1 <= self.warm_up <= self.window:
            raise ValueError(f"warm_up {self.warm_up} must lie in 1..window, which is {self.window}")

    def start(self, start: Start) -> None:
        self._window = RunningWindow(self.window, start.device)

    def select(self, step: Step) -> Selection:
        if not step.any_pasted:
            return Selection(keep=torch.ones_like(step.has_pasted), decided=False)
        loss = step.losses(ViewKind.AUGMENTED).pasted_total(LossKind.CLASSIFICATION)
        low, high = self._window.quantile(self.low), self._window.quantile(self.high)
        warm = self._window.seen >= self.warm_up
        self._window.add(loss)
        if not warm:
            return Selection(keep=torch.ones_like(step.has_pasted), contribution=loss, decided=False)
        keep = ((loss >= low) & (loss <= high)).expand(len(step.has_pasted))
        return Selection(keep=keep, contribution=loss, threshold=high)

    def state_dict(self) -> dict[str, Any]:
        return self._window.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._window.load_state_dict(state)
