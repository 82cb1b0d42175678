"""Trunks by name: the Hydra group `backbone`. Importing this package does not import torch."""

from backbones import members  # noqa: F401  importing them registers them
from backbones.registry import PIXEL_MEAN, PIXEL_STD, Backbone, find, name_of, names, register
from backbones.strides import level_of

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "Backbone", "find", "level_of", "name_of", "names", "register"]
