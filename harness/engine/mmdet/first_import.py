"""What goes wrong when two runs import mmdet for the first time at once."""

from __future__ import annotations

import importlib
import pickle
import time

from harness.errors import UserError

PATIENCE_SECONDS, POLL_SECONDS = 5.0, 0.1


def import_yapf() -> None:
    """mmengine imports yapf, which writes its grammar to the user's cache when it is first imported, and not at one
    stroke: another run may find half of it. Raises UserError if that half stays."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            importlib.import_module("yapf")
            return
        except (EOFError, pickle.UnpicklingError) as error:
            if time.monotonic() > end:
                raise UserError("yapf, which mmdet needs, left a damaged cache: delete ~/.cache/YAPF") from error
            time.sleep(POLL_SECONDS)
