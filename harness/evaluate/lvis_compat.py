"""The `lvis` package on current NumPy: it uses `np.float`, which NumPy 1.24 removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def numpy_float() -> Iterator[None]:
    """Gives NumPy its former name `np.float` while the package runs, and only where it is missing."""
    if hasattr(np, "float"):
        yield
        return
    np.float = float  # type: ignore[attr-defined]  # noqa: NPY001
    try:
        yield
    finally:
        del np.float  # type: ignore[attr-defined]  # noqa: NPY001
