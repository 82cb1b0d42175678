"""Two ranks as launcher=local starts them, which takes seconds less than torchrun."""

from __future__ import annotations

import time

import psutil

from harness.launch.forks import Forks, Request, is_alive
from harness.record.manifest import ExpectedRun

SECONDS = 300


def start_forked(forks: Forks, *overrides: str) -> list[psutil.Process]:
    run = ExpectedRun("forked", "forked", list(overrides), {}, resources={"ranks": 2})
    ranks = forks.start(Request(run, str(forks.folder), []))
    assert len(ranks) == 2
    return ranks


def wait_for(ranks: list[psutil.Process]) -> None:
    deadline = time.monotonic() + SECONDS
    while any(map(is_alive, ranks)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_forked(forks: Forks, *overrides: str) -> None:
    wait_for(start_forked(forks, *overrides))
