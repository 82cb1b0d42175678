"""Errors that are the user's to mend, and the words of their messages."""

from harness.record.names import nearest

__all__ = ["UserError", "first_line", "nearest"]


class UserError(Exception):
    """Bad input. The message is one sentence that names the file or field and the remedy; no traceback is shown."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, at most 200 characters; its type's name without one."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:200] for line in lines if line), type(error).__name__)
