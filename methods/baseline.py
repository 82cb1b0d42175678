"""Training on the real images alone."""

from __future__ import annotations

from dataclasses import dataclass

from methods.contract import Method
from methods.registry import register


@register("baseline")
@dataclass
class Baseline(Method):
    """Trains on real images only, without generated data."""

    paper = "CenterNet2, arXiv 2103.07461"
