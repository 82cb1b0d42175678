"""Checkpoints of a run in training: every rank's part in one folder that appears complete or not at all.

checkpoint/000000400/shared.pt   model, EMA, optimiser, scaler, iteration (rank 0)
                     rank0.pt    the method's state and how many decisions there were, one file per rank
checkpoint/final.pt              model and EMA alone, in the layout of published checkpoints, once training ended
           best.pt               the same of the best evaluation on the way
           000000300.pt          the same of an iteration of schedule.archive
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from harness.errors import UserError, first_line
from harness.record.files import write_atomically
from harness.training.distributed import Ranks
from harness.weights.checked_pickle import check_torch

log = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints of all ranks from copies in memory, while training continues.

    A checkpoint appears when every rank's part is written; a process that is killed before leaves the one before.
    Older ones beyond `keep` are deleted. `before_write` is called before one appears.
    """

    def __init__(self, folder: Path, ranks: Ranks, keep: int, before_write: Callable[[], None] = lambda: None) -> None:
        self.folder, self._ranks, self._keep, self._before_write = folder, ranks, keep, before_write
        self._writing: Future[None] | None = None
        self._iteration = 0

    def begin(self, iteration: int, shared: dict[str, Any], own: dict[str, Any]) -> None:
        """Copies what is to be saved, `shared` on rank 0 alone, and starts to write it; every rank calls it."""
        self.finish()
        self._iteration = iteration
        if self._ranks.is_main:
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir(parents=True)
        self._ranks.barrier()
        content = {f"rank{self._ranks.rank}.pt": own} | ({"shared.pt": shared} if self._ranks.is_main else {})
        writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing = writer.submit(_write_all, self._part, on_host(content))
        writer.shutdown(wait=False)

    @property
    def written(self) -> bool:
        """Whether this rank has written its part of a checkpoint that has not appeared yet."""
        return self._writing is not None and self._writing.done()

    def conclude(self, known_at: int) -> None:
        """Lets the checkpoint appear: to be called when it is known that every rank's part was written at a step."""
        if self._writing is None or known_at <= self._iteration:
            return
        self._writing.result()
        self._writing = None
        if self._ranks.is_main:
            self._before_write()
            target = self.folder / f"{self._iteration:09d}"
            shutil.rmtree(target, ignore_errors=True)
            self._part.rename(target)
            for old in _folders(self.folder)[self._keep :]:
                shutil.rmtree(old)

    def finish(self) -> None:
        """Waits until what was begun is written everywhere, and has appeared; every rank calls it."""
        if self._writing is not None:
            self._writing.result()
            self._ranks.barrier()
            self.conclude(self._iteration + 1)

    @property
    def _part(self) -> Path:
        return self.folder / f".{self._iteration:09d}.part"


def on_host(value: Any) -> Any:
    """A copy that nothing changes any more, its tensors in the host's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_host(item) for item in value)
    return copy.deepcopy(value)


def _write_all(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        _write(folder / name, content)


def restore_newest(
    folder: Path, ranks: Ranks, device: torch.device, restore: Callable[[dict[str, Any], dict[str, Any]], None]
) -> bool:
    """Hands (shared, own) of the newest checkpoint to `restore`, of the one before where any rank cannot read it or
    go on from it, which the log says; False where none can be read.

    Raises UserError if some can be read, but training can resume from none.
    """
    last: Exception | None = None
    for candidate in ranks.broadcast(_folders(folder)):
        failure: Exception | None = None
        state = None
        try:
            state = (_read(candidate / "shared.pt", device), _read(candidate / f"rank{ranks.rank}.pt", device))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch raises of any kind for damaged bytes
            failure = error
        if not ranks.any(failure is not None):
            assert state is not None
            try:
                restore(*state)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
                failure = last = error
            if not ranks.any(failure is not None):
                return True
        reason = first_line(failure) if failure is not None else "on another rank"
        log.warning("checkpoint %s cannot be read (%s); using the one before", candidate, reason)
    if ranks.any(last is not None):
        why = first_line(last) if last is not None else "another rank says why"
        raise UserError(f"{folder}: no checkpoint to resume from ({why}); delete the folder to train again")
    return False


def save_weights(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Weights that outlast the run: `final`, `best`, or an iteration's."""
    _write(folder / f"{name}.pt", content)


def save_final(folder: Path, content: dict[str, Any]) -> None:
    save_weights(folder, "final", content)


def has_final(folder: Path) -> bool:
    """Whether training has ended."""
    return (folder / "final.pt").is_file()


def load_final(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """What `save_final` wrote; None if training has not ended. Raises UserError for a damaged file."""
    path = folder / "final.pt"
    if not path.is_file():
        return None
    try:
        content = _read(path, device)
        if not all(isinstance(content.get(key, {}), dict) for key in ("model", "model_ema")) or "model" not in content:
            raise ValueError("it holds no model")
    except Exception as error:  # torch raises of any kind for damaged bytes
        raise UserError(
            f"{path} is damaged ({first_line(error)}); delete it and the run's record.json, then run it again"
        ) from error
    return content


def drop_intermediate(folder: Path) -> None:
    """Deletes everything but the final weights: optimiser state is of no use once a run has ended."""
    for old in [*_folders(folder), *folder.glob(".*.part")]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _folders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()), reverse=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    with write_atomically(path) as temporary:
        torch.save(content, temporary)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.name} is not a file")  # a pipe, say, that would be waited for
    check_torch(path)
    content = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__} in place of a dictionary")
    return content
