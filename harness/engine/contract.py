"""The contract between the harness and an engine: the framework that builds a detector and computes its losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.data.sample import View
from methods.contract import LossTable, Need, Proposals, Scope


@dataclass
class Prediction:
    """Detections of one image, best first.

    On the CPU: boxes (k, 4) float32 xyxy in pixels of the image as it lies on disk; scores (k,) float32; labels (k,)
    int64 0-based. encode makes `rles`; it needs no device, so that another thread may do it meanwhile.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    encode: Callable[[], list[dict[str, object]]]

    @cached_property
    def rles(self) -> list[dict[str, object]]:
        """COCO's compressed run-length encodings over the whole image, one a detection."""
        return self.encode()


class Engine(Protocol):
    """A built detector that the training step drives.

    `module` holds every parameter; its `train`/`eval` mode is the engine's to set inside `losses` and `predict`.
    """

    module: nn.Module
    capabilities: frozenset[Need]

    def losses(
        self,
        views: Sequence[View],
        proposals: Proposals,
        rng: torch.Generator,
        *,
        backbone_in_eval: bool = False,
    ) -> LossTable:
        """Per-image losses of views already on the module's device. No collective is called inside.

        `rng` (on that device) draws proposals and federated classes.
        """

    def shared_counts(self, views: Sequence[View]) -> dict[str, Tensor]:
        """What views add to the normalisers that ranks share, a scalar each by name of the loss, without a pass."""

    def confidence(self, views: Sequence[View], table: LossTable) -> Tensor:
        """(n, G) the probability of each instance's own label in its own box, 0 for padding; `table` is of these views.

        G is the largest number of instances of a view, at least 1. Without gradient; the mean over cascade stages.
        """

    def backbone_features(self, images: Sequence[Tensor]) -> Tensor:
        """(n, C, h, w) the backbone's last level of images (3, H, W) uint8 RGB of one size on the module's device.

        Without gradient, in evaluation mode.
        """

    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Detections of images (3, h, w) uint8 RGB, scaled back to `sizes`, their (height, width) on disk."""

    def parameters(self, scope: Scope) -> list[nn.Parameter]:
        """The trained parameters of a scope, always in the same order."""

    def load(self, weights: Path, *, averaged: bool = True) -> str:
        """Loads a checkpoint by name without executing code; returns what matched, was missing and was left over.

        Where a file holds both, loads the moving average (for evaluation) if `averaged`, else the raw weights (for
        training). Raises UserError when a required part is missing.
        """
