"""A stage's rows in chunks: ranks share them, and a restarted stage continues with those that are left.

checkpoint/000012.npy   what chunk 12 gave, a line for each of its rows
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from harness.record.files import write_atomically
from harness.training.distributed import Agreement, Ranks

MOST_ROWS = 128  # of a chunk: what is lost at most when a stage is killed
REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Chunk:
    """Rows (k,) int64 of a pool, all of one category."""

    number: int
    category: int
    rows: np.ndarray


def chunks_of(categories: np.ndarray, rows: np.ndarray) -> list[Chunk]:
    """`rows` (M,) int64 of a pool with these `categories` (N,), category by category, whatever the number of ranks."""
    parts: list[tuple[int, np.ndarray]] = []
    for category in np.unique(categories[rows]):
        own = rows[categories[rows] == category]
        parts += [(int(category), own[i : i + MOST_ROWS]) for i in range(0, len(own), MOST_ROWS)]
    return [Chunk(number, *part) for number, part in enumerate(parts)]


@dataclass
class ChunkedWork:
    """What a stage needs of the run that it is: `before_write` is called before anything is written."""

    ranks: Ranks
    folder: Path  # the run's
    stop_asked: Callable[[], bool] = lambda: False
    before_write: Callable[[], None] = lambda: None

    def done(self, chunks: Sequence[Chunk], do: Callable[[Chunk], np.ndarray]) -> bool:
        """Does this rank's part of what is left, `do` giving a line for each row; False on every rank where one was
        asked to stop before all was done."""
        left = [c for c in chunks[self.ranks.rank :: self.ranks.world] if not self._path(c).is_file()]
        progress = _Progress(self.folder, sum(len(c.rows) for c in chunks), self.ranks.is_main, self._rows_done(chunks))
        agreement, stopped = Agreement(self.ranks), False
        # As many words on every rank, however many chunks it has left.
        for turn in range(int(self.ranks.most(len(left)))):
            stopped = agreement.exchange(self.stop_asked())[0]
            if stopped:
                break
            if turn < len(left):
                self._do(left[turn], do)
            if self.ranks.is_main and progress.is_due:
                progress.report(self._rows_done(chunks))
        agreement.finish()
        self.ranks.barrier()
        rows = self._rows_done(chunks)
        if self.ranks.is_main:
            progress.report(rows)
        return not stopped

    def results(self, chunks: Sequence[Chunk]) -> list[np.ndarray]:
        """What the chunks gave, in their order; one after the other from disk."""
        return [np.load(self._path(chunk), mmap_mode="r") for chunk in chunks]

    def _do(self, chunk: Chunk, do: Callable[[Chunk], np.ndarray]) -> None:
        found = do(chunk)
        assert len(found) == len(chunk.rows)
        self.before_write()
        with write_atomically(self._path(chunk)) as temporary, temporary.open("wb") as file:
            np.save(file, found)

    def _path(self, chunk: Chunk) -> Path:
        # Beside where a training run has its checkpoints: files that appear there say that a run gets on.
        return self.folder / "checkpoint" / f"{chunk.number:06d}.npy"

    def _rows_done(self, chunks: Sequence[Chunk]) -> int:
        names = {path.name for path in (self.folder / "checkpoint").glob("*.npy")}
        return sum(len(chunk.rows) for chunk in chunks if self._path(chunk).name in names)


def drop_chunks(folder: Path) -> None:
    """Deletes a run's chunks, once its file is made of them."""
    for path in (folder / "checkpoint").glob("[0-9]*.npy"):
        path.unlink(missing_ok=True)


class _Progress:
    """Lines of metrics.jsonl, where `harness status` looks, and a bar on a terminal. Its iterations are rows."""

    def __init__(self, folder: Path, total: int, shown: bool, done: int) -> None:
        self.path, self.total, self.first, self.began = folder / "metrics.jsonl", total, done, time.monotonic()
        self.reported = -REPORT_SECONDS
        self.bar = tqdm(total=total, initial=done, unit="instance", disable=None if shown else True)

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self.reported > REPORT_SECONDS

    def report(self, done: int) -> None:
        self.reported = time.monotonic()
        self.bar.update(done - self.bar.n)
        speed = (done - self.first) / max(self.reported - self.began, 1e-9)
        line = {"iteration": done, "total": self.total, "steps_per_second": speed, "time": time.time()}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
