"""Training on the real images alone."""

from __future__ import annotations

from dataclasses import dataclass

from methods.contract import Method
from methods.registry import register


@register("baseline")
@dataclass
class Baseline(Method):
    """No generated data: the real images alone."""

    paper = "CenterNet2, arXiv 2103.07461"
