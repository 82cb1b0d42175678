"""The random draws of training: which proposals the box heads see, and which classes the federated loss counts.

Both are plain callables that a detector holds as attributes, so a test can put a rule in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (foreground (n, N) bool, present (n, N) bool, generator) -> indices (n, P) int64, kept (n, P) bool
ProposalSampler = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
# (stage, appeared (C + 1,) bool with background last, generator) -> counted (C,) bool
FederatedDraw = Callable[[int, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class RandomProposals:
    """At most `count` proposals an image, of which at most a share of `positive_fraction` is foreground."""

    count: int
    positive_fraction: float

    def __call__(self, foreground: Tensor, present: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.rand(foreground.shape, generator=rng, device=foreground.device)
        place = noise.masked_fill(~foreground, 2.0).argsort(1).argsort(1)  # each foreground proposal's among them all
        chosen = foreground & (place < int(self.count * self.positive_fraction))
        # Chosen foreground comes first, then background in random order, then what must not be drawn.
        key = noise + (~foreground).float() + 4.0 * ((foreground & ~chosen) | ~present).float()
        values, indices = key.sort(1)
        return indices[:, : self.count], values[:, : self.count] < 4.0


class FederatedClasses:
    """The classes that appear, topped up to `count` (background counting as one) by draws without replacement.

    `weights` (C,) are the odds of a class. Source: LVIS (1908.03195) as used in CenterNet2.
    """

    def __init__(self, weights: Tensor, count: int) -> None:
        self.weights, self.count = weights, count

    def __call__(self, stage: int, appeared: Tensor, rng: torch.Generator) -> Tensor:
        self.weights = self.weights.to(appeared.device)
        present = appeared[:-1]
        # The largest of weight / Exp(1) are a weighted draw without replacement (Efraimidis and Spirakis).
        odds = self.weights.masked_fill(present, 0)
        key = odds / torch.empty_like(odds).exponential_(generator=rng)
        values, classes = key.topk(min(self.count, len(key)))
        wanted = torch.arange(len(classes), device=key.device) < self.count - appeared.sum()
        return present.scatter(0, classes, present[classes] | (wanted & (values > 0)))


def federated_weights(image_counts: Tensor, num_classes: int, power: float, extra_images: int | None = None) -> Tensor:
    """(num_classes,) odds: image_count^power; classes beyond the counted ones count `extra_images`, or the largest."""
    extra = max(num_classes - len(image_counts), 0)
    others = image_counts.max().expand(extra) if extra_images is None else image_counts.new_full((extra,), extra_images)
    return torch.cat([image_counts[:num_classes], others]).float() ** power
