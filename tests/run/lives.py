"""A run lived in processes of their own that are killed or told to stop, and what it leaves behind.

The processes are forked from a server that has torch imported, so that a life costs a second or two.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.engine.native import NativeEngine
from harness.record.record import read_record
from harness.run.outcome import EXIT_CODES
from harness.run.run import execute
from harness.training import checkpoint
from harness.training.loop import Trainer
from tests.small_training import TIMES, TINY

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([__name__, "harness.launch.loaded"])

SHORT = [
    *TINY,
    "method=bsgal",
    "data.pool=half_bad",
    "method.tau=0.12",
    "data.workers=2",
    "schedule.iterations=6",
    "schedule.checkpoint_every=2",
    "schedule.ema=0.9",
    "evaluation.limit=8",
    "evaluation.save_minutes=0",
    "evaluation.every=4",
]


def live(
    runs: Path,
    event: int | tuple[str, int] | None = None,
    sent: signal.Signals = signal.SIGKILL,
    seconds: float = 120,
    overrides: Sequence[str] = SHORT,
) -> int:
    """Lives until the run ends or, at its `event`-th event (of a name), is sent a signal; SIGTERM goes to its group.

    Events are steps, predictions, and each moment at which a file is made to last, renamed or deleted. Gives the exit
    status, negative for a signal's; the events' names stand in runs/events.json.
    """
    runs.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_life, args=(runs, event, sent, overrides))
    process.start()
    process.join(seconds)
    assert process.exitcode is not None, f"hangs after {event} events and {sent.name}"
    return process.exitcode


def left_behind(runs: Path) -> dict[str, Any]:
    """All that a complete run leaves and that does not tell the time."""
    folder = next(runs.glob("*/record.json")).parent
    record = read_record(runs, folder.name)
    assert record is not None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = checkpoint.load_final(folder / "checkpoint", torch.device("cpu"))
    assert weights is not None
    return {
        "files": sorted(
            str(p.relative_to(folder)) for p in folder.rglob("*") if "claim" not in p.parts and p.is_file()
        ),
        "record": [
            record.run_id,
            record.status,
            record.metrics,
            record.curve,
            record.statistics,
            record.settings | {"runs_dir": ""},
        ],
        "metrics": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "weights": {part: weights[part] for part in ("model", "model_ema")},
        "tables": {path.name: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))},
    }


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To the bit."""
    for part in ("files", "record", "metrics"):
        assert found[part] == expected[part]
    assert found["tables"].keys() == expected["tables"].keys()
    for name, table in expected["tables"].items():
        pd.testing.assert_frame_equal(found["tables"][name], table, check_exact=True)
    for part, tensors in expected["weights"].items():
        assert all(torch.equal(found["weights"][part][name], value) for name, value in tensors.items())


def _life(runs: Path, event: int | tuple[str, int] | None, sent: signal.Signals, overrides: Sequence[str]) -> None:
    gc.freeze()  # looking for garbage would copy what the server has loaded
    os.setsid()
    sys.stderr = (runs / "stderr").open("a")
    events = _Events(event, sent)
    for owner, name in (
        (Trainer, "_step"),
        (NativeEngine, "predict"),
        (os, "fsync"),
        (os, "truncate"),
        (Path, "replace"),
        (Path, "rename"),
        (torch, "save"),
        (shutil, "rmtree"),
    ):
        setattr(owner, name, events.around(getattr(owner, name)))
    outcome = execute([*overrides, f"runs_dir={runs}"])
    (runs / "events.json").write_text(json.dumps(events.names))
    os._exit(EXIT_CODES.get(outcome.status, 0) if outcome.status else 9)


class _Events:
    def __init__(self, event: int | tuple[str, int] | None, sent: signal.Signals) -> None:
        self.event, self.sent, self.process = event, sent, os.getpid()
        self.names: list[str] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            self.happens(function.__name__)
            try:
                return function(*arguments, **options)
            finally:
                self.happens(f"{function.__name__} done")

        return call

    def happens(self, name: str) -> None:
        if os.getpid() != self.process or threading.current_thread().name == "claim":
            return
        self.names.append(name)
        if self.event in (len(self.names), (name, self.names.count(name))):
            send = os.killpg if self.sent in (signal.SIGTERM, signal.SIGKILL) else os.kill
            send(self.process, self.sent)
