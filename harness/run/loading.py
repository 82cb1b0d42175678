"""Importing what a run needs, which takes seconds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """What is imported within is never searched for garbage, of which there is none in it.

    The searches, while importing and while the run begins, take a second. A process that has loaded torch before is
    left as it is: its own garbage would be kept.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
