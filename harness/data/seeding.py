"""Stateless randomness: a generator is a function of what it is for, never of what ran before it."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, position: int = 0) -> np.random.Generator:
    """A NumPy generator keyed by (seed, purpose, position).

    `position` is the global sample position, an epoch or an iteration; equal keys give equal draws in any process.
    """
    return np.random.Generator(np.random.PCG64(derived_seed(seed, purpose, position)))


def derived_seed(seed: int, purpose: str, position: int = 0) -> int:
    """A 63-bit integer keyed like `generator`, for libraries that take only a number."""
    entropy = [seed, zlib.crc32(purpose.encode()), position]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
