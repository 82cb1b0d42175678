"""Errors that are the user's to mend, and the words of their messages."""

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.record.names import nearest
from harness.record.reading import Damaged

__all__ = [
    "UserError",
    "ending_in_a_sentence",
    "first_line",
    "nearest",
    "not_written",
    "quoting",
    "sentence_of",
    "shown",
]

_USERS_TO_MEND = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO,
}  # fmt: skip


class UserError(Exception):
    """Bad input. The message is one sentence that names the file or field and the remedy; no traceback is shown."""


def quoting(text: str) -> str:
    """How to write an override that Hydra's grammar does not take as it is."""
    key, equals, value = text.partition("=")
    if not equals:
        return "write key=value"
    if not text.isprintable():
        return "leave out its line breaks and other signs that cannot be seen"
    escaped = value.strip("'").replace("'", "\\'")
    word = f"{key}='{escaped}'"
    shown = shlex.quote(word) if any(sign in word for sign in '$`"\\') else f'"{word}"'
    return f"quote its value, for the shell and for Hydra: {shown}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, at most 200 characters; its type's name without one."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:200] for line in lines if line), type(error).__name__)


def shown(value: object) -> str:
    """A value from somebody's file within a sentence: on one line, at most 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def not_written(path: os.PathLike[str], error: OSError) -> UserError:
    """For a file or folder of the user's choice that the system did not let us write."""
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {_remedy(error)}, or name another place")


def _remedy(error: OSError) -> str:
    return "free some" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "fix that"


def sentence_of(error: OSError) -> str | None:
    """What a folder, a disk or a limit did not allow, in a sentence; None for what no user can mend."""
    if error.errno not in _USERS_TO_MEND:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{os.strerror(error.errno)}; {_remedy(error)}, or use another folder (--runs, runs_dir=, --out)"


@contextmanager
def ending_in_a_sentence() -> Iterator[None]:
    """Ends the process with one line, and the exit code 1, for what a user can mend."""
    try:
        yield
    except (UserError, Damaged) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if (sentence := sentence_of(error)) is None:
            raise
        sys.exit(f"error: {sentence}")
