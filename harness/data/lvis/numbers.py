"""Columns of numbers from entries of a stranger's JSON."""

from __future__ import annotations

from itertools import chain
from numbers import Real
from typing import Any

import numpy as np


def as_numbers(values: list[Any], width: int | None = None) -> np.ndarray | None:
    """(N,), or (N, width) of lists; int64, uint64 or float64. None if a value is not a number or not such a list.

    Checks types first: one text in a column would make NumPy turn every value into a text of its length.
    """
    try:
        kinds = set(map(type, values if width is None else chain.from_iterable(values)))
        numbers = np.array(values) if all(issubclass(kind, Real) for kind in kinds) else None
    except (ValueError, TypeError):
        return None
    shape = (len(values),) if width is None else (len(values), width)
    if not values:
        return np.zeros(shape)
    return numbers if numbers is not None and numbers.shape == shape and numbers.dtype.kind in "iuf" else None
