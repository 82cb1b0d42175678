"""DiverGen: data scaling, and generative data diversity enhancement as three switches over the pool's columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods import filters
from methods.contract import DatasetFacts, Draw, ImageFacts, Pool
from methods.registry import register
from methods.xpaste import PoolPasting

# Orders the instances that a growing subset takes; the same for every run, so that subsets nest.
ORDER_SEED = 2405


@register("divergen")
@dataclass
class DiverGen(PoolPasting):
    """Scales the number of generated instances, with category, prompt and generator diversity to switch off.

    scale: how many instances are used (all without it, none at 0); a smaller scale's are among a larger one's.
    category_diversity=false leaves out categories without training images (DiverGen's 250 extra ones);
    prompt_diversity=false keeps each category's first prompt; generator_diversity=false keeps one generator, named by
    `generator` or the commonest. similarity: least CLIP inter-similarity to the category's real instances, from the
    column `similarity_column` or from `embeddings`, an .npz with pool (N, D), real (M, D) and real_categories (M,).
    """

    paper = "DiverGen, arXiv 2405.10185"

    scale: int | None = None
    category_diversity: bool = True
    prompt_diversity: bool = True
    generator_diversity: bool = True
    generator: str | None = None
    similarity: float = 0.6
    similarity_column: str = "inter_similarity"
    embeddings: str | None = None

    def validate(self) -> None:
        super().validate()
        if self.scale is not None and self.scale < 0:
            raise ValueError(f"scale is {self.scale}, and must not be negative")
        if self.generator is not None and self.generator_diversity:
            raise ValueError("generator names the one to keep, which takes generator_diversity=false")
        if not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity is {self.similarity}, and a cosine lies in -1..1")

    def files(self) -> dict[str, Path]:
        return {"embeddings": Path(self.embeddings)} if self.embeddings else {}

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        return Draw() if self.scale == 0 else super().draw(image, pool, rng)

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = pool.subset(np.flatnonzero(self._similar(pool)))  # first: embeddings follow the whole pool's rows
        pool = super().prepare(pool, dataset, rng)
        for switch in (self._original_categories, self._first_prompts, self._one_generator):
            pool = pool.subset(np.flatnonzero(switch(pool, dataset)))
        return self._scaled(pool)

    def _similar(self, pool: Pool) -> np.ndarray:
        if self.embeddings is not None:
            value: np.ndarray = inter_similarity(Path(self.embeddings), pool.categories)
        elif self.similarity_column in pool.columns:
            value = np.asarray(pool.column(self.similarity_column), np.float64)
        else:
            filters.require(pool, (self.similarity_column,), f"similarity={self.similarity}", self.strict_filters)
            return np.ones(len(pool), bool)
        similar: np.ndarray = np.isnan(value) | (value >= self.similarity)
        return similar

    def _original_categories(self, pool: Pool, dataset: DatasetFacts) -> np.ndarray:
        if self.category_diversity:
            return np.ones(len(pool), bool)
        counts = np.zeros(max(len(dataset.image_count), int(pool.categories.max(initial=0)) + 1), np.int64)
        counts[: len(dataset.image_count)] = dataset.image_count
        known: np.ndarray = counts[pool.categories] > 0
        return known

    def _first_prompts(self, pool: Pool, dataset: DatasetFacts) -> np.ndarray:
        if self.prompt_diversity or len(pool) == 0:
            return np.ones(len(pool), bool)
        _, prompt = np.unique(_column(pool, "prompt_id", "prompt_diversity"), return_inverse=True)
        first = np.full(int(pool.categories.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, pool.categories, prompt)
        is_first: np.ndarray = prompt == first[pool.categories]
        return is_first

    def _one_generator(self, pool: Pool, dataset: DatasetFacts) -> np.ndarray:
        if self.generator_diversity or len(pool) == 0:
            return np.ones(len(pool), bool)
        column = _column(pool, "generator", "generator_diversity").astype(str)
        values, counts = np.unique(column, return_counts=True)
        chosen = self.generator or values[counts.argmax()]
        if chosen not in values:
            raise ValueError(f"divergen keeps the generator {chosen!r}, and the pool has {', '.join(values)}")
        is_chosen: np.ndarray = column == chosen
        return is_chosen

    def _scaled(self, pool: Pool) -> Pool:
        if not self.scale:  # at scale 0 nothing is drawn, and a pool that is left empty would be taken for a mistake
            return pool
        if self.scale > len(pool):
            raise ValueError(
                f"divergen's scale is {self.scale}, and the pool has {len(pool)} instances after filtering: "
                "take a smaller scale or a larger pool"
            )
        return pool.subset(balanced_order(pool.categories)[: self.scale])


def balanced_order(categories: np.ndarray) -> np.ndarray:
    """(N,) int64: an order of rows of which every beginning is balanced over the categories.

    All categories give one instance, then all give a second, and so on; the order within a round and within a category
    is pseudo-random and always the same, so that subsets nest.
    """
    rng = np.random.Generator(np.random.PCG64(ORDER_SEED))
    place = filters.place_in_category(categories, rng.random(len(categories)))
    turn = rng.random(int(categories.max(initial=0)) + 1)
    return np.lexsort((turn[categories], place))


def inter_similarity(path: Path, categories: np.ndarray) -> np.ndarray:
    """(N,) mean cosine similarity of each pool instance to the real instances of its category, NaN without any.

    Raises ValueError where the file lacks an array or does not fit the pool's `categories` (N,).
    """
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"pool", "real", "real_categories"} - set(arrays.files)
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: see the option `embeddings` of divergen")
        pool, real, real_categories = arrays["pool"], arrays["real"], arrays["real_categories"]
    if len(pool) != len(categories):
        raise ValueError(f"{path} has embeddings of {len(pool)} instances, and the pool has {len(categories)}")
    pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    real = real / np.linalg.norm(real, axis=1, keepdims=True)
    size = max(int(categories.max(initial=0)), int(real_categories.max(initial=0))) + 1
    # The mean of the cosines is the product with the mean of the unit vectors.
    mean = np.zeros((size, real.shape[1]))
    np.add.at(mean, real_categories, real)
    count = np.bincount(real_categories, minlength=size)
    mean = np.where(count[:, None] > 0, mean / np.maximum(count, 1)[:, None], np.nan)
    cosines: np.ndarray = np.einsum("nd,nd->n", pool, mean[categories])
    return cosines


def _column(pool: Pool, name: str, switch: str) -> np.ndarray:
    if name not in pool.columns:
        raise ValueError(f"divergen's {switch}=false needs the column {name} in the pool's index, which has none")
    return np.asarray(pool.column(name))
