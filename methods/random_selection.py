"""The fair control for a selecting method: the same pasting, accepted at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from methods.contract import Need, Selection, Start, Step
from methods.registry import register
from methods.xpaste import PoolPasting


@register("random_selection")
@dataclass
class RandomSelection(PoolPasting):
    """Accepts each pasted batch with a fixed probability, or with the acceptance rate of another run."""

    paper = "BSGAL, arXiv 2406.02435, random control"

    rate: float = 0.5  # where no run is needed; 0..1
    per_image: bool = False  # decides for every image apart
    per_instance: bool = False  # decides for every pasted instance apart; the image is kept

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is {self.rate}, and must lie in 0..1")
        if self.per_image and self.per_instance:
            raise ValueError("per_image and per_instance exclude each other")

    def required(self) -> frozenset[Need]:
        return frozenset({Need.INSTANCE_ATTRIBUTION} if self.per_instance else ())

    def start(self, start: Start) -> None:
        self.chance = self.rate
        if start.needed:
            self.chance = sum(_acceptance_rate(record) for record in start.needed) / len(start.needed)

    def select(self, step: Step) -> Selection:
        images = len(step.has_pasted)
        if self.per_instance and step.any_pasted:
            pasted = step.instances.pasted
            kept = torch.as_tensor(step.rng.random(tuple(pasted.shape)) < self.chance, device=pasted.device)
            return Selection(keep=torch.ones_like(step.has_pasted), instances=kept)
        draws = step.rng.random(images) if self.per_image else [step.rng.random()] * images
        keep = torch.tensor([draw < self.chance for draw in draws], device=step.has_pasted.device)
        if not step.any_pasted:
            return Selection(keep=torch.ones_like(step.has_pasted), decided=False)
        return Selection(keep=keep)


def _acceptance_rate(record: Mapping[str, Any]) -> float:
    rate = (record.get("statistics") or {}).get("acceptance_rate")
    if rate is None:
        name = record.get("run_id", "a needed run")
        raise ValueError(f"random_selection needs an acceptance rate, and the record of {name} holds none")
    return float(rate)
