"""One training step as a method sees it, and what a method decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from methods.contract.choices import LossKind, Proposals, Scope, ViewKind
from methods.contract.losses import LossTable


@dataclass(frozen=True)
class Instances:
    """The ground truth of the augmented view, padded: n images, G the largest number of instances of one (at least 1).

    pasted (n, G) bool: what was pasted, False for an image's own instances and for padding. pool_row (n, G) int64: the
    row of the pool that `prepare` returned, -1 where not pasted. labels (n, G) int64, 0-based. boxes (n, G, 4) float32
    xyxy pixels of the view.
    """

    pasted: Tensor
    pool_row: Tensor
    labels: Tensor
    boxes: Tensor


class Step(Protocol):
    """One training step as a method sees it. n is the number of training images on this rank."""

    iteration: int  # 0-based
    progress: float  # share of the schedule that is done, 0..1
    dtype: torch.dtype  # of the detector's parameters, and so of their gradients
    rng: np.random.Generator  # keyed by (seed, iteration, rank)

    @property
    def has_pasted(self) -> Tensor:
        """(n,) bool on the device: images into which something was pasted."""

    @property
    def any_pasted(self) -> bool:
        """Whether something was pasted into any image; known on the host, so asking costs no wait."""

    @property
    def instances(self) -> Instances:
        """The augmented view's instances, pasted ones and the images' own, in the columns of `per_instance`."""

    def confidence(self) -> Tensor:
        """(n, G) the detector's probability that each pasted instance is what its label says; NaN elsewhere.

        The box heads look at the instance's own box, on features that the augmented view's pass has computed already;
        the mean over cascade stages, without gradient. Needs INSTANCE_CONFIDENCE of the engine.
        """

    @property
    def num_references(self) -> int:
        """How many reference images the step has."""

    @property
    def reference_instances(self) -> tuple[int, ...]:
        """Ground-truth instances of each reference image, in order; 0 only where the method keeps emptied images."""

    def losses(
        self,
        view: ViewKind,
        proposals: Proposals = Proposals.SAMPLED,
        *,
        backbone_in_eval: bool = False,
        grad: bool = False,
        images: int | None = None,
    ) -> LossTable:
        """The view's losses; computed once per (view, proposals, backbone mode) and kept until the step ends.

        They are figures, in tensors of their own; with grad=True what `gradient` takes. Without it, a pass that is
        not trained on costs less. `backbone_in_eval` runs the backbone without stochastic depth and with running
        statistics; `images` takes only the first so many.
        """

    def gradient(
        self, loss: Tensor, scope: Scope = Scope.all, out: Tensor | None = None, *, keep_graph: bool = True
    ) -> Tensor:
        """Flat gradient (P,) of a scalar over a scope, in the detector's precision; written to `out` where given.

        The scalar is of losses that were asked for with grad=True; ValueError for another. keep_graph=False frees the
        graph: for losses that are not trained on, the reference batch's.
        """

    def num_parameters(self, scope: Scope = Scope.all) -> int:
        """Length P of that gradient."""

    def losses_after_step(
        self,
        view: ViewKind,
        lr: float,
        reference_proposals: Proposals = Proposals.SAMPLED,
        *,
        loss: Tensor | None = None,
        images: int | None = None,
        draws: int = 0,
    ) -> LossTable:
        """The reference batch's losses (no gradient) after one plain SGD step of size `lr` on the view's total loss.

        `loss`, a scalar of the view's pass with grad=True, replaces the total; `images` takes only the first so many
        references.
        Calls of a step with equal `draws` draw the reference proposals alike. Weights are restored bit for bit.
        """

    def average(self, value: Tensor) -> Tensor:
        """The mean over ranks of a float tensor that every rank holds; every rank must call it. One rank: unchanged."""

    def log(self, name: str, value: float | Tensor) -> None:
        """Adds a figure to the step's metrics; a tensor is read only when metrics are written."""


@dataclass(frozen=True)
class Selection:
    """Which images keep the pasted view, which pasted instances of it count, how much, and why.

    keep (n,) bool. instances (n, G) bool, in the columns of `Step.instances`: pasted instances that it leaves out are
    ignored: the terms matched to them count in no loss, neither as foreground nor as background, and the rest of the
    image trains as it is. What it says of other instances does not count. weight (n,) or (n, G) float: factors of
    images' losses, or of pasted instances' terms; normalisers stay those of the unweighted batch. Images that do not
    keep the pasted view are neither ignored in part nor weighted. An (n, G) tensor needs INSTANCE_ATTRIBUTION.

    without_pasted: losses of these kinds are of the real instances alone, in sum and normaliser; not together with
    `instances` or `weight`. It needs INSTANCE_ATTRIBUTION too.

    contribution: scalar, (n,) or (n, G) float, threshold: scalar, (n,) or (n, G), both as they go into the decision
    log; None when the method has no such figure. decided is False for a step that counts in no acceptance rate.
    gradient: flat, over all parameters, of the total of the view that all images are trained on, where the method
    has it already and `Method.brings_gradient` says so. It saves the backward pass where every rank has one; a loss
    that ranks share a normaliser of is then over each rank's own.
    """

    keep: Tensor
    contribution: Tensor | None = None
    threshold: Tensor | float | None = None
    decided: bool = True
    gradient: Tensor | None = None
    instances: Tensor | None = None
    weight: Tensor | None = None
    without_pasted: frozenset[LossKind] = frozenset()
