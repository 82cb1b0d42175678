"""Trunks by name: the Hydra group `backbone`. Importing this package does not import torch."""

from backbones.registry import Backbone, find, name_of, names, register

__all__ = ["Backbone", "find", "name_of", "names", "register"]
