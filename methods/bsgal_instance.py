"""Beyond the papers: BSGAL's contribution of every single pasted instance, from the detector's last layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from methods import last_layer, references
from methods.contract import DatasetFacts, Draw, Need, Selection, Start, Step, ViewKind
from methods.last_layer import ClassGradients
from methods.registry import register
from methods.running import InstanceThresholds, reaching
from methods.xpaste import PoolPasting


@register("bsgal_instance")
@dataclass
class BSGALInstance(PoolPasting):
    """Keeps the pasted instances whose gradient agrees with that of real images, and ignores the others.

    The contribution is BSGAL's, the product of the gradients of the instance's and of reference images' classification
    loss, but only in the weights of the last layers, where it follows from a forward pass. The reference gradient is
    a running mean class by class. An instance is kept when its contribution reaches the `quantile` of the last `window`
    ones of its category (of all, with per_category=false). The first `warmup` are always kept. normalise: use cosines.
    """

    paper = "BSGAL, arXiv 2406.02435, decided per instance instead of per batch"
    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.INSTANCE_ATTRIBUTION, Need.LAST_LAYER, Need.GROUND_TRUTH_PROPOSALS}
    )

    quantile: float = 0.5  # share of a category's recent instances that is left out
    window: int = 64
    warmup: int = 8
    per_category: bool = True
    momentum: float = 0.9
    normalise: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile is {self.quantile}, and must lie between 0 and 1")
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup is {self.warmup}, and must lie in 1..window={self.window}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, and must lie in 0..1, below 1")

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int:
        return references.of_drawn_class(draw, dataset, rng)

    def start(self, start: Start) -> None:
        self._reference = ClassGradients(self.momentum)
        self._thresholds = InstanceThresholds(self.window, self.warmup, self.per_category)

    def select(self, step: Step) -> Selection:
        self._reference.update(step)
        everything = torch.ones_like(step.has_pasted)
        if not step.any_pasted or self._reference.mean is None:
            return Selection(everything, decided=False)
        pasted = step.instances.pasted
        reference = self._reference.mean
        contribution, norm = last_layer.of_instances(step.losses(ViewKind.AUGMENTED), pasted, reference)
        if self.normalise:
            contribution = contribution / (norm * torch.linalg.vector_norm(reference) + 1e-12)
        # Without a gradient are those that no region was matched to.
        contribution = contribution.masked_fill(~pasted | (norm == 0), torch.nan)
        threshold = self._thresholds.judge(step.instances, contribution, self.quantile)
        return Selection(everything, contribution, threshold, instances=reaching(contribution, threshold))

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self._reference.state_dict(), "thresholds": self._thresholds.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reference.load_state_dict(state["reference"])
        self._thresholds.load_state_dict(state["thresholds"])
