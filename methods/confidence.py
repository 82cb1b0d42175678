"""Keeps single pasted instances by the detector's own confidence in their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch

from methods.contract import Need, Selection, Start, Step
from methods.registry import register
from methods.running import CategoryWindows, reaching
from methods.xpaste import PoolPasting

BEST = 0.9  # the quantile of a category's recent confidences that `level` is a share of


class By(Enum):
    """level: an instance stays when its confidence reaches `level` times the best of its category. quantile: when it
    reaches a quantile of its category."""

    level = "level"
    quantile = "quantile"


@register("confidence")
@dataclass
class Confidence(PoolPasting):
    """Keeps pasted instances whose label the detector believes, and ignores the rest of them.

    The detector, as it is at that step, looks at each pasted instance's box and gives the probability of the label. By
    level, an instance stays when that reaches `level` times the 0.9 quantile of the last `window` ones of its category:
    what a detector believes of a rare category is little, and what it believes of a frequent one's look-alikes is much,
    so the category's own best is the measure, and the share of bad instances need not be known. By quantile, it stays
    when it reaches the `quantile` of those, which leaves out that share. per_category=false judges by all categories
    together; `warmup`: so many of a category are kept first, whatever they are. soft: instances are weighted by their
    rank among the window instead. The others are ignored, and the rest of the image trains as it is. A detector that
    has not learnt the categories believes no label: start from one that has (init_from, weights).
    On a clean pool it loses against keeping everything: docs/explanation/selection.md.
    """

    paper = "beyond the papers"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INSTANCE_ATTRIBUTION, Need.INSTANCE_CONFIDENCE})

    by: By = By.level
    level: float = 0.25
    quantile: float = 0.5  # share of a category's recent instances that is left out
    window: int = 64
    warmup: int = 8
    per_category: bool = True
    soft: bool = False

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.level <= 1:
            raise ValueError(f"level is {self.level}, and must lie in 0..1")
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile is {self.quantile}, and must lie between 0 and 1")
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup is {self.warmup}, and must lie in 1..window={self.window}")
        if self.by is By.level:
            self.refuse_if_set("by=quantile", "quantile", "soft")
        else:
            self.refuse_if_set("by=level", "level")

    def start(self, start: Start) -> None:
        self._windows = CategoryWindows(self.window)

    def select(self, step: Step) -> Selection:
        everything = torch.ones_like(step.has_pasted)
        if not step.any_pasted:
            return Selection(everything, decided=False)
        confidence = step.confidence()
        instances = step.instances
        step.log("confidence/mean", confidence[instances.pasted].mean())
        place = instances.pasted.nonzero()
        labels = instances.labels[instances.pasted].tolist() if self.per_category else [0] * len(place)
        values = confidence[instances.pasted].tolist()
        rank, threshold = torch.ones_like(confidence), torch.full_like(confidence, math.nan)
        # All are judged by what came before the step, so their order in it plays no part.
        for (image, column), label, value in zip(place.tolist(), labels, values, strict=True):
            if self._windows.seen(label) >= self.warmup:
                threshold[image, column] = self._threshold(label)
                if self.soft:
                    rank[image, column] = self._windows.rank(label, value)
        for label, value in zip(labels, values, strict=True):
            self._windows.add(label, value)
        if self.soft:
            return Selection(everything, confidence, threshold, weight=rank)
        return Selection(everything, confidence, threshold, instances=reaching(confidence, threshold))

    def _threshold(self, label: int) -> float:
        if self.by is By.quantile:
            return self._windows.quantile(label, self.quantile)
        return self.level * self._windows.quantile(label, BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"windows": self._windows.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows.load_state_dict(state["windows"])
