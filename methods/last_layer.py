"""Gradients of the classification loss in the detector's last layers, in closed form.

A region's part of the gradient is the outer product of its errors and the layer's inputs, so products and norms need no
backward pass. S is the number of classification losses (stages of a cascade), C of classes, F of a layer's inputs; a
layer's gradient is (C, F + 1), the biases' in the last column.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contract import LastLayer, Loss, LossKind, LossTable, Proposals, Step, ViewKind


class ClassGradients:
    """A running mean of reference batches' gradients, class by class: G ← m·G + (1−m)·g for the classes that they hold.

    A class keeps its row while images of other classes pass. mean: (S, C, F + 1), zero where nothing was seen yet; None
    before the first reference image.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.mean: Tensor | None = None

    def update(self, step: Step) -> None:
        """Adds the step's reference batch, if there is one, with ground truth as proposals."""
        if not step.num_references:
            return
        layers = _layers(step.losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True))
        now = torch.stack([_outer(seen, loss) for loss, seen in layers])
        if self.mean is None:
            self.mean = torch.zeros_like(now)
        classes = torch.arange(now.shape[1], device=now.device)
        held = (layers[0][1].labels[:, None] == classes).any(0)
        self.mean = torch.where(held[:, None], torch.lerp(now, self.mean, self.momentum), self.mean)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]


def of_instances(table: LossTable, wanted: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Of the gradients of instances' shares of the classification loss, `LossTable.per_instance`: (n, G) each, their
    inner products with `reference` (S, C, F + 1) and their norms. Zero but for the instances `wanted` (n, G) bool."""
    product = reference.new_zeros(wanted.shape)
    square = torch.zeros_like(product)
    for (loss, seen), of_layer in zip(_layers(table), reference, strict=True):
        assert loss.attribution is not None
        place = loss.attribution.instance
        rows = ((place >= 0) & wanted.flatten()[place.clamp(min=0)]).nonzero().squeeze(1)
        place, seen = place[rows], seen.take(rows)
        errors, inputs = seen.errors, _with_bias(seen)
        # The squared norm of a sum of outer products, from products of pairs of regions.
        pairs = (errors @ errors.T) * (inputs @ inputs.T) * (place[:, None] == place)
        normaliser = loss.count.sum().clamp(min=1)
        product += _summed(_products(errors, inputs, of_layer), place, wanted) / normaliser
        square += _summed(pairs.sum(1), place, wanted) / normaliser**2
    return product, square.clamp(min=0).sqrt()


def of_images(table: LossTable, reference: Tensor) -> Tensor:
    """(n,) inner products of the gradients of images' shares of the classification loss, `LossTable.per_image`."""
    parts = []
    for (loss, seen), of_layer in zip(_layers(table), reference, strict=True):
        each = _products(seen.errors, _with_bias(seen), of_layer)
        parts.append(_summed(each, seen.image, loss.sum) / loss.count.sum().clamp(min=1))
    return torch.stack(parts).sum(0)


def _layers(table: LossTable) -> list[tuple[Loss, LastLayer]]:
    losses = [table.losses[name] for name in table.names(LossKind.CLASSIFICATION)]
    return [(loss, loss.last_layer) for loss in losses if loss.last_layer is not None]


def _outer(seen: LastLayer, loss: Loss) -> Tensor:
    return seen.errors.T @ _with_bias(seen) / loss.count.sum().clamp(min=1)


def _with_bias(seen: LastLayer) -> Tensor:
    """(R, F + 1) the inputs, and the 1 that multiplies the bias."""
    return F.pad(seen.inputs.to(seen.logits.dtype), (0, 1), value=1.0)


def _products(errors: Tensor, inputs: Tensor, reference: Tensor) -> Tensor:
    """(R,) of outer products with a layer's gradient."""
    return ((inputs @ reference.T) * errors).sum(1)


def _summed(values: Tensor, place: Tensor, like: Tensor) -> Tensor:
    """Sums of values (R,) by place (R,), an index into `like`'s shape."""
    places = torch.arange(like.numel(), device=values.device)
    # A product with zeros and ones: scattered additions are in no fixed order on a GPU.
    return (values @ (place[:, None] == places).to(values.dtype)).view(like.shape)
