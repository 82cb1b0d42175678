"""Strides of feature maps and their levels, the one numbering that trunks, pyramids and region pooling share."""

from __future__ import annotations


def level_of(stride: int) -> int:
    """The level of a stride, its binary logarithm: P3 has stride 8. Raises ValueError if it is no power of two."""
    if stride < 1 or stride & (stride - 1):
        raise ValueError(f"strides are powers of two, not {stride}")
    return stride.bit_length() - 1
