"""Backbones by name. A member is a dataclass whose fields are the Hydra group `backbone=<name>`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import nn


# What images are normalised by before any backbone: ImageNet's mean and deviation, RGB in 0..255.
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Backbone(Protocol):
    """What a registered dataclass must have."""

    weights: str | None  # a file of pretrained weights, read by name when training starts

    def build(self, strides: Sequence[int], activation_checkpointing: bool = False) -> nn.Module:
        """The network up to the last of these strides.

        Its forward takes images (n, 3, H, W), normalised, H and W multiples of 32, and returns a dictionary from
        stride to features (n, channels[stride], H/stride, W/stride); `channels` is its attribute, by stride.
        """


B = TypeVar("B", bound=type)

_classes: dict[str, type] = {}


def register(name: str) -> Callable[[B], B]:
    """Class decorator: makes a dataclass known as `backbone=name`. Raises ValueError for a name that is taken."""

    def decorate(cls: B) -> B:
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"@register({name!r}) needs @dataclass below it, before class {cls.__name__}")
        known = _classes.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"the backbone name {name!r} is already taken by {known.__qualname__}")
        _classes[name] = cls
        return cls

    return decorate


def names() -> list[str]:
    """Names of all backbones, sorted."""
    return sorted(_classes)


def find(name: str) -> type:
    """The class of a backbone. Raises LookupError that names those there are."""
    if name not in _classes:
        raise LookupError(f"no backbone is called {name!r}: there are {', '.join(names())}")
    return _classes[name]


def name_of(backbone: type | object) -> str:
    """The name that a class (or an instance's class) is registered under. Raises LookupError for an unknown one."""
    cls = backbone if isinstance(backbone, type) else type(backbone)
    for name in names():
        if _classes[name] is cls:
            return name
    raise LookupError(f"{cls.__qualname__} is not registered: put @register('name') before it")
