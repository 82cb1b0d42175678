"""Why a run failed: the kind of failure, its message, and whether it happened here or on another rank."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from harness.errors import UserError, first_line
from harness.record.record import FailureKind
from harness.run import claim

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# torch's own words for a file that could not be written to its end, which hide the system's.
_TORCH_WRITES_SHORT = ("unexpected pos", "PytorchStreamWriter failed writing")
_PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
# A rank that fails by its own fault says so at once; over a network file system it takes a moment to be read.
PATIENCE_SECONDS = 3.0


class PeerLost(Exception):
    """Another rank is gone without a message, killed or with its node; this one is fine and can resume later."""


def kind_of(error: BaseException) -> FailureKind:
    """The kind of failure for a record."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return FailureKind.out_of_memory
    return FailureKind.no_space if _lacks_space(error) else FailureKind.python_error


def message_of(error: BaseException, folder: Path) -> str:
    """The user error's sentence, or else the end of the traceback."""
    mended = as_user_error(error, folder)
    if isinstance(mended, UserError):
        return str(mended)
    return "\n".join("".join(traceback.format_exception(error)).splitlines()[-6:])


def as_user_error(error: BaseException, folder: Path) -> BaseException:
    """The error itself, or a sentence for one that the user can fix."""
    if _lacks_space(error):
        return UserError(f"no space left on {folder}: free some, or raise the quota; then `harness retry` resumes")
    return error


def of_another_rank(error: BaseException, run_folder: Path, generation: int, rank: int) -> UserError | PeerLost | None:
    """Why another rank failed, if `error` only shows that it is gone; None for an error of this rank."""
    if not (isinstance(error, dist.DistError) or any(words in str(error) for words in _PEER_IS_GONE)):
        return None
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        words = claim.words_of_ranks(run_folder, generation)
        words.pop(rank, None)
        if words:
            return UserError("; ".join(f"rank {other}: {text}" for other, text in sorted(words.items())))
        if time.monotonic() > end:
            return PeerLost(f"another rank was lost: {first_line(error)}")
        time.sleep(0.1)


def _lacks_space(error: BaseException) -> bool:
    return any(
        (isinstance(one, OSError) and one.errno in NO_SPACE) or any(words in str(one) for words in _TORCH_WRITES_SHORT)
        for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
