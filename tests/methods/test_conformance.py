"""The kit passes the built-in methods and catches what it is for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import methods
from methods import registry
from methods.conformance import check_method, run_checks
from methods.contract import DatasetFacts, Draw, ImageFacts, LossKind, Method, Pool, Selection, Start, Step, ViewKind


@pytest.mark.parametrize("name", methods.names())
def test_built_in_methods_conform(name: str) -> None:
    report = check_method(name, processes=False)
    assert report.cost["forward"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bsgal", "random_selection", "bsgal_per_image"])
def test_built_in_methods_conform_in_other_processes(name: str) -> None:
    check_method(name)


def test_costs_are_counted() -> None:
    assert run_checks("xpaste", processes=False).cost == {"forward": 1.0, "backward": 1.0}
    assert run_checks("bsgal", processes=False).cost["backward"] == 3.0


class Broken(Method):
    pass


@dataclass
class DrawsFromTheGlobalGenerator(Method):
    """Broken."""

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        return Draw(rows=np.random.randint(0, max(len(pool), 1), 3).astype(np.int64))  # noqa: NPY002


@dataclass
class WritesToThePool(Method):
    """Broken."""

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool.categories[0] = 0
        return pool


@dataclass
class KeepsStateToItself(Method):
    """Broken."""

    def start(self, start: Start) -> None:
        self.count = 0

    def select(self, step: Step) -> Selection:
        self.count += 1
        keep = torch.ones_like(step.has_pasted)
        return Selection(keep, decided=False) if not step.any_pasted else Selection(keep & (self.count % 4 != 0))


@dataclass
class ChangesTheWeights(Method):
    """Broken."""

    def select(self, step: Step) -> Selection:
        step.engine.module.box.bias.data += 1  # type: ignore[attr-defined]
        return super().select(step)


@dataclass
class RunsBackward(Method):
    """Broken."""

    def select(self, step: Step) -> Selection:
        step.losses(ViewKind.ORIGINAL).total(LossKind.BOX).backward(retain_graph=True)
        return super().select(step)


@dataclass
class DecidesOnFloats(Method):
    """Broken."""

    def select(self, step: Step) -> Selection:
        return Selection(keep=torch.ones(len(step.has_pasted)))


@dataclass
class CountsUnpastedBatches(Method):
    """Broken."""

    def select(self, step: Step) -> Selection:
        return Selection(keep=torch.ones_like(step.has_pasted))


@dataclass
class KeepsAGraph(Method):
    """Broken."""

    def select(self, step: Step) -> Selection:
        if not step.any_pasted:
            return super().select(step)
        loss = step.losses(ViewKind.AUGMENTED).total()
        return Selection(keep=(loss > 0).expand(len(step.has_pasted)), contribution=loss)


@dataclass
class HasMutableOption(Method):
    """Broken."""

    count: int = 0

    def select(self, step: Step) -> Selection:
        self.count += 1
        return super().select(step)


@dataclass
class SavesAnObject(Method):
    """Broken."""

    def state_dict(self) -> dict[str, Any]:
        return {"self": self}


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (DrawsFromTheGlobalGenerator, "draw"),
        (WritesToThePool, "prepare"),
        (KeepsStateToItself, "state round trip"),
        (ChangesTheWeights, "nothing is written"),
        (RunsBackward, "nothing is written"),
        (DecidesOnFloats, "selection"),
        (CountsUnpastedBatches, "batch without pasted instances"),
        (KeepsAGraph, "selection"),
        (HasMutableOption, "nothing is written"),
        (SavesAnObject, "state round trip"),
    ],
)
def test_a_broken_method_is_caught_by_name(cls: type[Method], check: str) -> None:
    faults = {result.name: result.fault for result in run_checks(cls, processes=False).faults}
    assert "registered" in faults  # none of these is
    assert check in faults, faults
    assert faults[check]


def test_the_message_names_every_failed_check() -> None:
    with pytest.raises(AssertionError, match=r"fails 2 of \d+ checks:\n  registered: .*\n  batch without pasted"):
        check_method(CountsUnpastedBatches, processes=False)


@dataclass
class WaitsForEver(Method):
    """Ranks that average unlike one another."""

    def select(self, step: Step) -> Selection:
        if step.any_pasted:
            step.average(torch.zeros(()))
        return super().select(step)


@pytest.mark.slow
def test_ranks_that_average_unlike_one_another_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.conformance.CHILD_SECONDS", 30)
    registry.register("waits_for_ever")(WaitsForEver)
    try:
        faults = {result.name for result in run_checks(WaitsForEver).faults}
    finally:
        del registry._classes["waits_for_ever"]
    assert "two ranks" in faults
