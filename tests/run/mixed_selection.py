"""A method for tests: all that a selection can say at once, by image and by instance."""

from dataclasses import dataclass, replace

import torch

from methods.confidence import Confidence
from methods.contract import Selection, Step
from methods.registry import register


@register("mixed_selection")
@dataclass
class MixedSelection(Confidence):
    """Rejects images by chance; leaves instances out of the others by confidence, and weights by it what stays."""

    def select(self, step: Step) -> Selection:
        selection = super().select(step)
        chance = torch.tensor(step.rng.random(len(step.has_pasted)), device=step.has_pasted.device)
        weight = 0.5 + step.confidence().nan_to_num()
        return replace(selection, keep=chance < 0.7, weight=weight) if selection.decided else selection
