"""Evaluations while a run trains: a learning curve, and the best weights so far."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record.learning_curve import Point, figure_of, read_curve, write_curve
from harness.training import checkpoint
from harness.training.distributed import Ranks
from harness.training.loop import Trainer

log = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float | None]]


@dataclass
class OnTheWay:
    """Called by a trainer every `evaluation.every` iterations; every rank has one.

    evaluate: box and mask metrics in percent by IoU type, on rank 0, of the weights in the module; it continues
    from what its folder holds. `before_write` is called before anything is written. told: called with each point.
    """

    folder: Path
    ranks: Ranks
    best: str | None
    evaluate: Callable[[Path], Metrics]
    before_write: Callable[[], None]
    told: Callable[[Point], None] = lambda point: None

    def __call__(self, trainer: Trainer) -> None:
        """Does nothing if an earlier start has evaluated at this iteration. Raises Interrupted."""
        if self.ranks.broadcast(any(point["iteration"] == trainer.iteration for point in read_curve(self.folder))):
            return
        shards = self.folder / "evaluation" / f"{trainer.iteration:09d}"
        with trainer.evaluated_weights():
            metrics = self.evaluate(shards)
        if self.ranks.is_main:
            self._keep({"iteration": trainer.iteration, **metrics}, trainer)
            shutil.rmtree(shards, ignore_errors=True)
        self.ranks.barrier()

    def forget_after(self, iteration: int) -> None:
        """Drops what an earlier start found after the checkpoint that training resumes from."""
        points = read_curve(self.folder) if self.ranks.is_main else []
        kept = [point for point in points if point["iteration"] <= iteration]
        if len(kept) < len(points):
            write_curve(self.folder, kept)
        if self.ranks.is_main:
            for shards in self.folder.glob("evaluation/*/"):
                if int(shards.name) > iteration:
                    shutil.rmtree(shards)

    def _keep(self, point: Point, trainer: Trainer) -> None:
        self.before_write()
        points = read_curve(self.folder)
        if self.best and all(figure_of(point, self.best) > figure_of(earlier, self.best) for earlier in points):
            content: dict[str, Any] = trainer.final_weights() | {"metrics": point}
            checkpoint.save_weights(trainer.saver.folder, "best", content)
        write_curve(self.folder, [*points, point])
        box, mask = (f"{figure_of(point, f'{kind}.AP'):.1f}" for kind in ("bbox", "segm"))
        log.info("step %d of %d: AP %s (boxes), %s (masks)", trainer.iteration, trainer.schedule.iterations, box, mask)
        self.told(point)
