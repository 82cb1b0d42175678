"""Simple copy-paste: instances of a training image, placed as they lie there."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from methods.contract import DatasetFacts, Draw, ImageFacts, PasteRule, Pool, concatenated
from methods.registry import register
from methods.xpaste import PoolPasting


class Source(Enum):
    """train: instances of training images. pool: generated ones. both: generated ones, and real ones on top."""

    train = "train"
    pool = "pool"
    both = "both"


class _RealRows(NamedTuple):
    """The rows of a pool that are training instances, its first ones: their images (R,), ascending, each once too."""

    pool: Pool
    images: np.ndarray
    holding: np.ndarray


@register("copy_paste")
@dataclass
class CopyPaste(PoolPasting):
    """Pastes instances of one uniform training image; with source=both, X-Paste + Copy-Paste.

    max_real: limit of real instances, of which a uniform number from 0 is pasted, chosen among those that the image's
    jittered view shows. max_samples limits the generated ones.
    """

    paper = "Simple Copy-Paste, arXiv 2012.07177; X-Paste, arXiv 2212.03863"

    source: Source = Source.train
    max_real: int = 99

    def validate(self) -> None:
        super().validate()
        if self.max_real < 0:
            raise ValueError(f"max_real is {self.max_real}, and must be at least 0")
        if self.source is Source.pool:
            self.refuse_if_set("source=train or both", "max_real")

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        if self.source is Source.pool:
            return super().prepare(pool, dataset, rng)
        train = self.limited_to_groups(dataset.instance_pool(), dataset)
        # Sorted by image, so that a draw finds an image's instances by bisection.
        train = train.subset(np.argsort(train.column("image"), kind="stable"))
        return train if self.source is Source.train else dataset.join(train, super().prepare(pool, dataset, rng))

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        if self.source is Source.pool:
            return super().draw(image, pool, rng)
        real = self._real_rows(pool)
        parts = [Draw(rows=self._of_one_image(real, rng), rules=PasteRule.AS_IT_LIES, at_most=self.max_real)]
        if self.source is Source.both and len(real.images) < len(pool):
            parts.insert(0, Draw(rows=self._generated(pool, len(real.images), rng)))  # so the real ones lie on top
        return concatenated(parts)

    def _real_rows(self, pool: Pool) -> _RealRows:
        """Read once per worker, since there are as many as the training set has annotations."""
        known: _RealRows | None = self.__dict__.get("_known")
        if known is None or known.pool is not pool:
            images = pool.column("image")  # ascending, then -1 for what is generated
            images = images[: bisect_left(range(len(pool)), True, key=lambda row: images[row] < 0)]
            known = self._known = _RealRows(pool, images, np.unique(images))
        return known

    def _of_one_image(self, real: _RealRows, rng: np.random.Generator) -> np.ndarray:
        """The rows of a uniform image among those that hold any."""
        if len(real.images) == 0 or self.max_real == 0:
            return np.zeros(0, np.int64)
        chosen = real.holding[rng.integers(len(real.holding))]
        return np.arange(*np.searchsorted(real.images, [chosen, chosen + 1]))

    def _generated(self, pool: Pool, first: int, rng: np.random.Generator) -> np.ndarray:
        """X-Paste's draw among the rows from `first` on."""
        categories = [c for c in pool.present_categories if pool.rows_of(int(c))[-1] >= first]
        rows = []
        for category in rng.choice(categories, int(rng.integers(0, self.max_samples))):
            of_category = pool.rows_of(int(category))
            rows.append(rng.choice(of_category[np.searchsorted(of_category, first) :]))
        return np.array(rows, np.int64)
