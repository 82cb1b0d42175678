"""Simple copy-paste: instances of another training image, placed as they lie there."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum

import numpy as np

from methods.contract import DatasetFacts, Draw, ImageFacts, PasteRule, Pool, concatenated
from methods.registry import register
from methods.xpaste import PoolPasting

TRIES = 20  # at finding another image that has instances


class Source(Enum):
    """train: instances of training images. pool: generated ones. both: first the one, then the other."""

    train = "train"
    pool = "pool"
    both = "both"


@register("copy_paste")
@dataclass
class CopyPaste(PoolPasting):
    """Pastes instances cut from another training image; with source=both, X-Paste + Copy-Paste."""

    paper = "Simple Copy-Paste, arXiv 2012.07177; X-Paste, arXiv 2212.03863"

    source: Source = Source.train

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
        images = self._images_of(pool)
        real = bisect_left(range(len(pool)), True, key=lambda row: images[row] < 0)  # real rows stand first
        parts = [Draw(rows=self._of_another_image(image.index, images[:real], rng), rules=PasteRule.AS_IT_LIES)]
        if self.source is Source.both and real < len(pool):
            parts.append(Draw(rows=self._generated(pool, real, rng)))
        return concatenated(parts)

    def _images_of(self, pool: Pool) -> np.ndarray:
        """The column `image`, read once a worker: it is as long as the training set's annotations."""
        known = self.__dict__.get("_known")
        if known is None or known[0] is not pool:
            known = self._known = (pool, pool.column("image"))
        images: np.ndarray = known[1]
        return images

    def _of_another_image(self, own: int, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random subset of the instances of one uniformly drawn image; `images` (N,) ascending."""
        if len(images) == 0 or self.max_samples < 2:
            return np.zeros(0, np.int64)
        for _ in range(TRIES):
            other = int(rng.integers(0, int(images[-1]) + 1))
            first, last = np.searchsorted(images, [other, other + 1])
            if other != own and last > first:
                count = int(rng.integers(1, min(int(last - first), self.max_samples - 1) + 1))
                return np.sort(rng.choice(np.arange(first, last), count, replace=False))
        return np.zeros(0, np.int64)

    def _generated(self, pool: Pool, first: int, rng: np.random.Generator) -> np.ndarray:
        """X-Paste's draw among the rows from `first` on."""
        categories = [c for c in pool.present_categories if pool.rows_of(int(c))[-1] >= first]
        rows = []
        for category in rng.choice(categories, int(rng.integers(0, self.max_samples))):
            of_category = pool.rows_of(int(category))
            rows.append(rng.choice(of_category[np.searchsorted(of_category, first) :]))
        return np.array(rows, np.int64)
