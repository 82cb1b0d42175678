"""BSGAL with an audience: other settings of it judge the same batches, and the metrics say what each would have done.

A plugin (`method_paths`) that `tests.benchmarks.bsgal_agreement` runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from methods.bsgal import BSGAL, CachePrecision, Estimator, ReferenceProposals, Threshold
from methods.contract import Scope, Selection, Start, Step
from methods.registry import register

MEDIAN = {"threshold": Threshold.percentile, "accept_rate": 0.5}  # a running median for all of them
FRESH = {"momentum": 0.1}  # published: the cache is nearly the last reference gradient
STEADY = {"momentum": 0.9}  # the mean of some ten reference gradients
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": FRESH,
    "scope=heads": {**FRESH, "scope": Scope.heads},
    "scope=last": {**FRESH, "scope": Scope.last},
    "reference_every=4": {**FRESH, "reference_every": 4},
    "scope=last reference_every=8": {**FRESH, "scope": Scope.last, "reference_every": 8},
    "cache_precision=bf16": {**FRESH, "cache_precision": CachePrecision.bf16},
    "estimator=loss_difference": {
        "estimator": Estimator.loss_difference,
        "reference_proposals": ReferenceProposals.ground_truth,
    },
    "momentum=0.9": STEADY,
    "momentum=0.9 scope=heads": {**STEADY, "scope": Scope.heads},
    "momentum=0.9 scope=last": {**STEADY, "scope": Scope.last},
    "momentum=0.9 reference_every=4": {**STEADY, "reference_every": 4},
    "momentum=0.9 scope=last reference_every=8": {**STEADY, "scope": Scope.last, "reference_every": 8},
}


@register("bsgal_agreement")
@dataclass
class Agreement(BSGAL):
    """Exact BSGAL at a running median decides; all settings log their contribution and their decision."""

    paper = "this benchmark"

    threshold: Threshold = Threshold.percentile

    def start(self, start: Start) -> None:
        super().start(start)
        self._judges = {name: BSGAL(**MEDIAN, **options) for name, options in SETTINGS.items()}
        for judge in self._judges.values():
            judge.start(start)

    def select(self, step: Step) -> Selection:
        found = {name: judge.select(_Shared(step)) for name, judge in self._judges.items()}  # type: ignore[arg-type]
        for name, selection in found.items():
            if selection.decided and selection.contribution is not None:
                step.log(f"judge/{name}/contribution", selection.contribution)
                step.log(f"judge/{name}/accepted", selection.keep.all().float())
        return found["exact"]

    def state_dict(self) -> dict[str, Any]:
        return {name: judge.state_dict() for name, judge in self._judges.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, judge in self._judges.items():
            judge.load_state_dict(state[name])


class _Shared:
    """A step whose graphs outlive each judge's gradients, and whose log only the audience writes to."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def gradient(
        self, loss: Tensor, scope: Scope = Scope.all, out: Tensor | None = None, *, keep_graph: bool = True
    ) -> Tensor:
        return self._step.gradient(loss, scope, out)

    def log(self, name: str, value: float | Tensor) -> None:
        pass
