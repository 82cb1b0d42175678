"""What a run shows while it works: a bar on a terminal, plain lines elsewhere, everything in log.txt."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("harness")


@contextmanager
def run_log(path: Path, is_main: bool) -> Iterator[None]:
    """Sends the package's log to the run's file and, on rank 0, to stderr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path)]
    if is_main:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)
    level, propagates, raises = log.level, log.propagate, logging.raiseExceptions
    logging.raiseExceptions = False  # on a full disk, each line of the log would come with a traceback of its own
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        with logging_redirect_tqdm([log]):
            yield
    finally:
        logging.raiseExceptions = raises
        log.setLevel(level)
        log.propagate = propagates
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class TrainingProgress:
    """Called with each line of metrics; a context manager. `track` is called with the figures of each iteration too."""

    def __init__(
        self,
        total: int,
        start: int,
        shown: bool,
        track: Callable[[int, Mapping[str, float]], None] = lambda iteration, figures: None,
    ) -> None:
        self.track = track
        self.bar = tqdm(total=total, initial=start, desc="train", unit="step", disable=not (shown and _on_terminal()))
        self.shown = shown
        self.reported_at = 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        self.bar.update(line["iteration"] - self.bar.n)
        figures = {"loss": f"{line['loss']:.3f}"}
        if line["acceptance"] is not None:
            figures["accepted"] = f"{line['acceptance']:.0%}"
        self.bar.set_postfix(figures)
        self.track(
            line["iteration"], {k: value for k, value in line.items() if isinstance(value, float) and k != "time"}
        )
        last = line["iteration"] == line["total"]
        if self.shown and self.bar.disable and (last or time.monotonic() - self.reported_at > 10):
            self.reported_at = time.monotonic()
            text = ", ".join(f"{name} {value}" for name, value in figures.items())
            speed = f"{line['images_per_second']:.1f} images/s, {line['waiting']:.0%} waiting for data"
            memory = f"{line['memory_mb'] / 1024:.1f} GiB on rank {line['memory_rank']:.0f}"
            left = timedelta(seconds=round(line["eta_seconds"]))
            log.info("step %d of %d, %s, %s, %s, %s left", line["iteration"], line["total"], text, speed, memory, left)

    def evaluated(self, point: dict[str, Any]) -> None:
        """Hears of a point of the learning curve."""
        self.track(point["iteration"], flat_metrics(point))

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Box and mask figures in one: bbox/AP, segm/APr, ...; undefined ones left out."""
    return {
        f"{kind}/{name}": value
        for kind in ("bbox", "segm")
        for name, value in metrics[kind].items()
        if value is not None
    }


@contextmanager
def counting(total: int, what: str, shown: bool) -> Iterator[tqdm[Any]]:
    """A bar over `total` items, for a terminal; silent elsewhere."""
    with tqdm(total=total, desc=what, unit="image", disable=not (shown and _on_terminal())) as bar:
        yield bar


def _on_terminal() -> bool:
    return sys.stderr.isatty()
