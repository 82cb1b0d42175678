"""Runs on the embedded dataset that benchmarks look into, and how they show a figure's spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import UserError
from harness.record.record import Status
from harness.run.run import execute

MINI = ["data=mini", "detector=small", "backbone=resnet18"]


def complete(overrides: Sequence[str]) -> str:
    """The id of a run, executed where it is not complete. Raises UserError when it does not end well."""
    outcome = execute([*MINI, *overrides])
    if outcome.status is not Status.complete:
        raise UserError(f"{outcome.run_id}: {outcome.status}, {outcome.message}")
    return outcome.run_id


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; of one value no deviation is known."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else np.nan:.3f}"
