# `select` left gradients in the parameters
from dataclasses import dataclass

from methods.contract import ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("runs_backward")
@dataclass
class RunsBackward(PoolPasting):
    """Wrong."""

    def select(self, step):
        step.losses(ViewKind.ORIGINAL, grad=True).total().backward(retain_graph=True)
        return super().select(step)
