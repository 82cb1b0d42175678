"""What a method knows about pool, dataset and image when it prepares and draws, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np


class PasteRule(Enum):
    """AREA: X-Paste's category area statistics, anywhere in the image.

    AS_IT_LIES: the same place and size as in its own image, after a scale jitter, crop and flip of that image.
    Consecutive rows from one training image are pasted together, and do not hide one another.
    """

    AREA = "area"
    AS_IT_LIES = "as_it_lies"


class Pool(Protocol):
    """Instances that can be pasted, read-only and shared between workers. A row is an index into it."""

    def __len__(self) -> int: ...

    @property
    def categories(self) -> np.ndarray:
        """(N,) int64, the 0-based category of every row."""

    @property
    def present_categories(self) -> np.ndarray:
        """Sorted (K,) int64: the categories that have at least one row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `column` takes."""

    def rows_of(self, category: int) -> np.ndarray:
        """(M,) int64 rows of a category, empty when it has none."""

    def column(self, name: str) -> np.ndarray:
        """(N,) values of a column such as generator, prompt_id, clip_score (percent), area_fraction (0..1).

        Raises KeyError when the pool's index has no such column.
        """

    def subset(self, rows: np.ndarray) -> Pool:
        """A pool of only these rows, renumbered in the given order."""

    def open(self, row: int) -> np.ndarray:
        """(H, W, 4) uint8 RGBA of a row's instance; one of a training image is cut to its extent.

        Raises ValueError naming a file that is missing or not such an image.
        """


class DatasetFacts(Protocol):
    """Statistics of the training set, read-only."""

    @property
    def num_images(self) -> int: ...

    @property
    def num_categories(self) -> int: ...

    @property
    def frequency(self) -> np.ndarray:
        """(C,) one-letter strings: r (1-10 training images), c (11-100), f (more)."""

    @property
    def image_count(self) -> np.ndarray:
        """(C,) int64: training images that hold the category."""

    def images_of(self, category: int) -> np.ndarray:
        """(M,) int64 indices of the training images that hold a category."""

    def categories_of(self, image: int) -> np.ndarray:
        """(K,) int64 categories that an image holds, ascending."""

    def instance_pool(self) -> Pool:
        """The training set's own instances as a pool: columns image (its index) and annotation."""

    def join(self, first: Pool, second: Pool) -> Pool:
        """One pool of both: the first one's rows, then the second one's.

        A column that only one has is filled up with -1 (integers), NaN (floats) or "" (text).
        """


@dataclass(frozen=True)
class ImageFacts:
    """What is known about a training image before it is decoded."""

    index: int
    width: int
    height: int
    categories: np.ndarray  # (K,) int64, ascending


@dataclass(frozen=True)
class Draw:
    """What to paste into one image: pool rows, in pasting order, and how each is placed.

    at_most: paste a uniform number in 0..at_most of the instances with the rule AS_IT_LIES, chosen uniformly among
    those that the view of their image shows; all of them by default. The harness fills in `categories` (k,), `image`
    and `visible_categories`, those that the unpasted view shows, before it passes the draw to `Method.reference`.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    rules: tuple[PasteRule, ...] | PasteRule = PasteRule.AREA
    categories: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    image: ImageFacts | None = None
    at_most: int | None = None
    visible_categories: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def rule_of(self, place: int) -> PasteRule:
        return self.rules if isinstance(self.rules, PasteRule) else self.rules[place]


def uniform_over_categories(pool: Pool, rng: np.random.Generator, max_samples: int = 20) -> Draw:
    """X-Paste's draw: a number uniform in 0..max_samples-1, each a uniform category, then a uniform instance of it.

    Source: X-Paste (2212.03863), `cas_random`.
    """
    count = int(rng.integers(0, max_samples)) if max_samples > 0 else 0
    if count == 0 or len(pool) == 0:
        return Draw()
    categories = rng.choice(pool.present_categories, count)
    # Generator.choice costs several times a random index.
    rows = (pool.rows_of(int(category)) for category in categories)
    return Draw(rows=np.array([own[rng.integers(len(own))] for own in rows], np.int64))


def concatenated(draws: Iterable[Draw]) -> Draw:
    """One draw of several, in order; `at_most` is that of the first part that has it."""
    parts = [draw for draw in draws if len(draw.rows)]
    if not parts:
        return Draw()
    rules = tuple(part.rule_of(i) for part in parts for i in range(len(part.rows)))
    at_most = next((part.at_most for part in parts if part.at_most is not None), None)
    return Draw(rows=np.concatenate([part.rows for part in parts]), rules=rules, at_most=at_most)
