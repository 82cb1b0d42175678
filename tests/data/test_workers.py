"""Loader workers hear no signal of the group, and end with their run all the same."""

from __future__ import annotations

import subprocess
import sys

LEAVES_A_WORKER = """
import multiprocessing, time
from harness.data.workers import held_back, start_worker

def work(started):
    start_worker(0)
    started.set()
    time.sleep(600)

started = multiprocessing.Event()
with held_back():
    multiprocessing.Process(target=work, args=(started,), daemon=True).start()
assert started.wait(60)
raise SystemExit(3)
"""


def test_a_worker_that_is_left_over_does_not_hold_up_the_end() -> None:
    assert subprocess.run([sys.executable, "-c", LEAVES_A_WORKER], timeout=60).returncode == 3
