"""Learning to Reweight: weights pasted instances or images by how much they help on real reference images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import last_layer, references
from methods.contract import DatasetFacts, Draw, Need, Selection, Start, Step, ViewKind
from methods.last_layer import ClassGradients
from methods.registry import register
from methods.xpaste import PoolPasting


class Of(Enum):
    """What gets a weight: every pasted instance, or every image into which something was pasted."""

    instance = "instance"
    image = "image"


@register("reweight")
@dataclass
class Reweight(PoolPasting):
    """Weights pasted instances by the inner product of their gradient with that of real images, where positive.

    That is the meta-gradient of the reference loss by the weight after one step of SGD, taken over the last layers,
    where it follows from a forward pass. A step's weights are divided by their mean, so they are 1 on average; where
    all disagree, all are 0. momentum: of the reference gradient's running mean, class by class; 0 uses each step's own.
    """

    paper = "Learning to Reweight Examples (Ren et al., ICML 2018), arXiv 1803.09050"

    of: Of = Of.instance
    momentum: float = 0.0

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, and must lie in 0..1, below 1")

    def required(self) -> frozenset[Need]:
        needs = {Need.LAST_LAYER, Need.GROUND_TRUTH_PROPOSALS}
        return frozenset(needs | {Need.INSTANCE_ATTRIBUTION} if self.of is Of.instance else needs)

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int:
        return references.of_drawn_class(draw, dataset, rng)

    def start(self, start: Start) -> None:
        self._reference = ClassGradients(self.momentum)

    def select(self, step: Step) -> Selection:
        self._reference.update(step)
        everything = torch.ones_like(step.has_pasted)
        if not step.any_pasted or self._reference.mean is None:
            return Selection(everything, decided=False)
        agreement, weighted = self._agreement(step, self._reference.mean), self._weighted(step)
        weight = mean_one(agreement, weighted)
        step.log("reweight/zero", (weight[weighted] == 0).float().mean())
        return Selection(everything, agreement.masked_fill(~weighted, torch.nan), 0.0, weight=weight)

    def _agreement(self, step: Step, reference: Tensor) -> Tensor:
        table = step.losses(ViewKind.AUGMENTED)
        if self.of is Of.image:
            return last_layer.of_images(table, reference)
        return last_layer.of_instances(table, step.instances.pasted, reference)[0]

    def _weighted(self, step: Step) -> Tensor:
        return step.has_pasted if self.of is Of.image else step.instances.pasted

    def state_dict(self) -> dict[str, Any]:
        return self._reference.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reference.load_state_dict(state)


def mean_one(agreement: Tensor, weighted: Tensor) -> Tensor:
    """Agreements where positive, over their mean among `weighted` (bool, of the same shape); 1 for the others."""
    positive = agreement.clamp(min=0)
    mean = positive[weighted].mean()
    return torch.where(weighted, positive / mean.clamp(min=torch.finfo(mean.dtype).tiny), 1.0)
