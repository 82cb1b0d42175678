"""The conformance kit: what every method must do right, each point a named check with a clear message.

From pytest: `from methods.conformance import check_method` and `check_method(MyMethod)`; from the command line
`harness methods check NAME`. The checks run a method through the harness's own training step on a tiny detector.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

from methods import registry
from methods.conformance import lives, offline, training
from methods.conformance.faults import Fault, Report, Result, sentence
from methods.conformance.training import cost_of_step
from methods.contract import Method

__all__ = ["Fault", "Report", "Result", "check_method", "cost_of_step", "run_checks"]

Check = Callable[..., str | None]

OPTIONS: list[Check] = [offline.check_registered, offline.check_options]
OFFLINE: list[Check] = [
    offline.check_prepare,
    offline.check_draw,
    offline.check_reference,
    offline.check_empty_pool,
    offline.check_picklable,
]
STEPS: list[Check] = [
    training.check_start,
    training.check_selection,
    training.check_batch_without_pasted_instances,
    training.check_step_without_references,
    training.check_device,
]
# They judge the life of a method whose steps are right.
LIVES: list[Check] = [
    lives.check_the_same_twice,
    lives.check_state_round_trip,
    lives.check_memory,
    lives.check_two_ranks,
]
PROCESSES: list[Check] = [offline.check_spawned_worker]


def check_method(method: type[Method] | Method | str, *, processes: bool = True) -> Report:
    """Runs every check. Raises AssertionError that lists all that failed, one line each.

    A class or name is checked with its default options, an instance with its own. processes=False leaves out the check
    that starts another process, a spawned loader worker.
    """
    report = run_checks(method, processes=processes)
    if report.faults:
        lines = [f"  {result.name}: {result.fault}" for result in report.faults]
        raise AssertionError(
            "\n".join([f"{report.method} fails {len(lines)} of {len(report.results)} checks:", *lines])
        )
    return report


def run_checks(method: type[Method] | Method | str, *, processes: bool = True) -> Report:
    """Runs the checks and gives what each found; nothing is raised for a fault of the method.

    One fault is reported once: what was found already is not repeated, and what follows from it is not judged.
    """
    if isinstance(method, str):
        method = registry.find(method)
    instance = method() if isinstance(method, type) else method
    report = Report(type(instance).__name__)
    judged = _Judging(report, instance)
    judged.all_of(OPTIONS)
    offline_is_right = judged.until_a_fault(OFFLINE + (PROCESSES if processes else []))
    if judged.until_a_fault(STEPS) and offline_is_right:
        judged.lives()
    if not report.faults:
        report.cost = cost_of_step(instance)
    return report


class _Judging:
    def __init__(self, report: Report, method: Method) -> None:
        self.report, self.method = report, method

    def all_of(self, checks: list[Check]) -> None:
        for check in checks:
            self._run(check, copy.deepcopy(self.method))

    def until_a_fault(self, checks: list[Check]) -> bool:
        """Whether there was none."""
        return all(self._run(check, copy.deepcopy(self.method)) for check in checks)

    def lives(self) -> None:
        try:
            life = lives.whole_life(copy.deepcopy(self.method))
        except Exception as error:
            self._add(Result("training", fault=sentence(error)))
            return
        for check in LIVES:
            further = (life,) if len(inspect.signature(check).parameters) == 2 else ()
            if not self._run(check, copy.deepcopy(self.method), *further):
                return

    def _run(self, check: Check, *arguments: object) -> bool:
        """Whether a check found nothing."""
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            return self._add(Result(name, note=check(*arguments) or ""))
        except Exception as error:
            return self._add(Result(name, fault=sentence(error)))

    def _add(self, result: Result) -> bool:
        if result.fault and result.fault in [known.fault for known in self.report.faults]:
            return False
        self.report.results.append(result)
        return not result.fault
