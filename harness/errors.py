"""Errors that are the user's to mend."""

import difflib
from collections.abc import Collection


class UserError(Exception):
    """Bad input. The message is one sentence that names the file or field and the remedy; no traceback is shown."""


def nearest(word: str, valid: Collection[str]) -> str:
    """The end of an error message: the nearest valid word, or the valid ones."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(sorted(valid)[:20]) or 'none'}"


def first_line(error: BaseException) -> str:
    """What a library's error says, for the middle of a message of ours: one line, 200 characters at most."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
