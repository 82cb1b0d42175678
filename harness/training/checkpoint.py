"""Checkpoints of a run in training: every rank's part in one folder that appears complete or not at all.

checkpoint/000000400/shared.pt   model, EMA, optimiser, scaler, iteration (rank 0)
                     rank0.pt    the method's state and how many decisions there were, one file a rank
checkpoint/final.pt              model and EMA alone, in the layout of published checkpoints, once training ended
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from harness.errors import first_line
from harness.record.files import write_atomically
from harness.training.distributed import Ranks

log = logging.getLogger(__name__)


def save(folder: Path, iteration: int, shared: dict[str, Any], own: dict[str, Any], ranks: Ranks, keep: int) -> None:
    """Writes a checkpoint from all ranks; `shared` is taken from rank 0. Older ones beyond `keep` are deleted."""
    part = folder / f".{iteration:09d}.part"
    if ranks.is_main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    ranks.barrier()
    _write(part / f"rank{ranks.rank}.pt", own)
    if ranks.is_main:
        _write(part / "shared.pt", shared)
    ranks.barrier()
    if ranks.is_main:
        target = folder / f"{iteration:09d}"
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in _folders(folder)[keep:]:
            shutil.rmtree(old)


def load_newest(folder: Path, ranks: Ranks, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(shared, own) of the newest checkpoint that every rank can read; None without one.

    One that is truncated or damaged is passed over with a warning.
    """
    for candidate in ranks.broadcast(_folders(folder)):
        state: tuple[dict[str, Any], dict[str, Any]] | None = None
        try:
            state = (_read(candidate / "shared.pt", device), _read(candidate / f"rank{ranks.rank}.pt", device))
        except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
            log.warning("checkpoint %s cannot be read (%s); the one before is taken", candidate, first_line(error))
        if not ranks.any(state is None):
            return state
    return None


def save_final(folder: Path, content: dict[str, Any]) -> None:
    _write(folder / "final.pt", content)


def has_final(folder: Path) -> bool:
    """Whether training has ended."""
    return (folder / "final.pt").is_file()


def load_final(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """What `save_final` wrote; None where training has not ended."""
    path = folder / "final.pt"
    return _read(path, device) if path.is_file() else None


def drop_intermediate(folder: Path) -> None:
    """Deletes everything but the final weights: optimiser state is of no use once a run has ended."""
    for old in [*_folders(folder), *folder.glob(".*.part")]:
        shutil.rmtree(old)


def _folders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()), reverse=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    with write_atomically(path) as temporary:
        torch.save(content, temporary)


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return content
