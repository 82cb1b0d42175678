"""Detections of the images that an evaluation has been through, so that an interrupted one resumes.

evaluation/<weights>/rank1of2-000040-000080.parquet   of the images 40..79 of those that rank 1 of 2 evaluates
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from harness.errors import UserError
from harness.evaluate.detections import Detections
from harness.training.distributed import Ranks

log = logging.getLogger(__name__)


class Shards:
    """The shards of one rank. Those of another number of ranks are useless: they share the images differently."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder
        self.prefix = f"rank{ranks.rank}of{ranks.world}"
        self.done = 0  # images, from the first on

    def read(self) -> list[Detections]:
        """The detections of the images that are done; the rest of a damaged or missing piece is done again."""
        parts = []
        for path in sorted(self.folder.glob(f"{self.prefix}-*.parquet")):
            bounds = re.fullmatch(rf"{self.prefix}-(\d{{6,}})-(\d{{6,}})", path.stem)
            if bounds is None:
                continue
            first, end = int(bounds[1]), int(bounds[2])
            try:
                if first == self.done:
                    parts.append(Detections.read(path))
                    self.done = end
            except UserError as error:
                log.warning("%s; its images are evaluated again", error)
        return parts

    def write(self, detections: Detections, done: int) -> None:
        """Keeps the detections of the images from the last piece's end up to `done`."""
        if done > self.done:
            detections.write_parquet(self.folder / f"{self.prefix}-{self.done:06d}-{done:06d}.parquet")
            self.done = done


def drop_shards(folder: Path) -> None:
    """Deletes a run's shards, once it is complete."""
    shutil.rmtree(folder / "evaluation", ignore_errors=True)
