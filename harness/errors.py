"""Errors that are the user's to mend."""


class UserError(Exception):
    """Bad input. The message is one sentence that names the file or field and the remedy; no traceback is shown."""
