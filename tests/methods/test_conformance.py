"""The kit passes the built-in methods, and catches every method in tests/methods/wrong with a sentence of its own."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import methods
from methods.conformance import check_method, run_checks
from methods.conformance.handed import outside
from methods.contract import Method, Selection, Step

WRONG = sorted(Path(__file__).with_name("wrong").glob("*.py"))
# Their faults show only in a whole life of training.
LATE = {
    "averages_where_something_was_pasted",
    "forgets_its_counter",
    "forgets_its_warm_up",
    "gives_a_part_of_the_gradient",
    "grows",
    "ignores_its_state",
    "keeps_a_graph",
    "keeps_the_step",
    "learns_apart",
    "saves_an_object",
    "scales_its_gradient",
    "trains_on_what_it_rejects",
}
QUICK = ("bandit", "bsgal", "confidence", "xpaste")
SLOW = tuple(name for name in methods.names() if name not in QUICK)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_built_in_methods_conform(name: str) -> None:
    cost = check_method(name, processes=False).cost
    assert cost["forward"] >= 1
    if name == "bsgal":
        assert cost == {"forward": 2.0, "backward": 3.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bandit", "bsgal", "bsgal_per_image"])
def test_built_in_methods_conform_in_other_processes(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LATE), id=path.stem) for path in WRONG],
)
def test_a_wrong_method_is_caught_once_with_its_sentence(path: Path) -> None:
    """The sentence stands in the file's first line."""
    methods.load_file(path)
    faults = [result.fault for result in run_checks(path.stem, processes=False).faults]
    assert len(faults) == 1, faults
    assert re.search(path.read_text().split("\n")[0].removeprefix("# "), faults[0]), faults


def test_ranks_that_take_turns_at_any_moment_conform() -> None:
    """Each rank is a thread; Python 3.11 raises where two threads set a profile function at once."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as ranks:
            list(ranks.map(_leave_and_come_back, [2000, 2000]))
    finally:
        sys.setswitchinterval(interval)


def _leave_and_come_back(times: int) -> None:
    for _ in range(times):
        with outside(None):
            pass


@dataclass
class Twice(Method):
    """Wrong in two ways."""

    def prepare(self, pool, dataset, rng):  # type: ignore[no-untyped-def]
        torch.rand(1)
        return pool

    def select(self, step: Step) -> Selection:
        return Selection(keep=torch.ones_like(step.has_pasted))


def test_the_message_names_every_failed_check() -> None:
    wanted = r"fails 3 of \d+ checks:\n  registered: .*\n  prepare: .*\n  batch without pasted instances: "
    with pytest.raises(AssertionError, match=wanted):
        check_method(Twice, processes=False)
