"""Beyond the papers: BSGAL that decides about each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.bsgal import BSGAL, Estimator, Mode
from methods.contract import LossKind, Scope, Selection, Step
from methods.registry import register


@register("bsgal_per_image")
@dataclass
class BSGALPerImage(BSGAL):
    """BSGAL that keeps or rejects each pasted image by its own share of the pasted loss.

    Takes one forward pass per view, as BSGAL does, and one backward pass per image; these are short with scope=heads. A
    batch that is kept in part is trained on both views' passes, image by image.
    """

    paper = "BSGAL, arXiv 2406.02435, decided per image instead of per batch"

    scope: Scope = Scope.heads

    def validate(self) -> None:
        super().validate()
        if self.mode is not Mode.paste_only or self.estimator is not Estimator.gradient:
            raise ValueError("bsgal_per_image splits the pasted loss: it takes mode=paste_only and estimator=gradient")
        if self.sync:
            raise ValueError("bsgal_per_image decides for its own rank's images: it takes sync=false")

    def select(self, step: Step) -> Selection:
        cache = self._updated_cache(step)
        if not step.any_pasted or cache.updates == 0:
            return Selection(keep=torch.ones_like(step.has_pasted), decided=False)
        shares = self._pasted_losses(step).per_image(LossKind.CLASSIFICATION, pasted=True)
        contribution = shares.detach().new_full(shares.shape, torch.nan)
        pasted = step.has_pasted.nonzero().flatten().tolist()
        for image in pasted:
            contribution[image] = self._contribution(step, cache, shares[image], "pasted")
        threshold = self._threshold(step, *contribution[pasted])
        return Selection(
            keep=(contribution >= threshold) | ~step.has_pasted, contribution=contribution, threshold=threshold
        )
