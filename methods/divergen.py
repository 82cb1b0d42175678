"""DiverGen: data scaling, and generative data diversity enhancement by the pool's columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods import filters
from methods.contract import DatasetFacts, Draw, ImageFacts, Pool
from methods.registry import register
from methods.xpaste import PoolPasting


@register("divergen")
@dataclass
class DiverGen(PoolPasting):
    """Scales the number of generated instances, and their diversity in categories, prompts and generators.

    scale: number of instances to use (all by default, none at 0); a larger scale includes those of a smaller one.
    extra_categories: number of categories without training images to use, by lowest number; all by default (DiverGen's
    250). prompts: number of prompts per category, all by default. generator: the only generator to use, by its name in
    the column. similarity: minimum CLIP inter-similarity to the category's real instances, from the column
    `similarity_column` or from `embeddings`, an .npz with pool (N, D), real (M, D) and real_categories (M,).
    """

    paper = "DiverGen, arXiv 2405.10185"

    scale: int | None = None
    extra_categories: int | None = None
    prompts: int | None = None
    generator: str | None = None
    similarity: float = 0.6
    similarity_column: str = "inter_similarity"
    embeddings: str | None = None

    def validate(self) -> None:
        super().validate()
        for name, least in (("scale", 0), ("extra_categories", 0), ("prompts", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, and must be at least {least}")
        if not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity is {self.similarity}, and a cosine lies in -1..1")

    def files(self) -> dict[str, Path]:
        return {"embeddings": Path(self.embeddings)} if self.embeddings else {}

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        return Draw() if self.scale == 0 else super().draw(image, pool, rng)

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = pool.subset(np.flatnonzero(self._similar(pool)))  # first: embeddings follow the whole pool's rows
        pool = self.usable(pool, dataset)
        for choice in (self._of_categories, self._of_prompts, self._of_generator):
            pool = pool.subset(np.flatnonzero(choice(pool, dataset)))
        return self._scaled(self.few_of_each(pool))

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

    def _of_categories(self, pool: Pool, dataset: DatasetFacts) -> np.ndarray:
        if self.extra_categories is None:
            return np.ones(len(pool), bool)
        counts = np.zeros(max(len(dataset.image_count), int(pool.categories.max(initial=0)) + 1), np.int64)
        counts[: len(dataset.image_count)] = dataset.image_count
        extra = [category for category in pool.present_categories if counts[category] == 0]
        if len(extra) < self.extra_categories:
            raise ValueError(f"divergen's extra_categories is {self.extra_categories}, and the pool has {len(extra)}")
        kept: np.ndarray = (counts[pool.categories] > 0) | np.isin(pool.categories, extra[: self.extra_categories])
        return kept

    def _of_prompts(self, pool: Pool, dataset: DatasetFacts) -> np.ndarray:
        if self.prompts is None or len(pool) == 0:
            return np.ones(len(pool), bool)
        _, prompt = np.unique(_column(pool, "prompt_id", "prompts"), return_inverse=True)
        pairs = np.unique(np.stack([pool.categories, prompt]), axis=1)
        place = filters.place_in_category(pairs[0], pairs[1])
        kept = pairs[:, place < self.prompts]
        width = int(prompt.max()) + 1
        return np.isin(pool.categories * width + prompt, kept[0] * width + kept[1])

    def _of_generator(self, pool: Pool, dataset: DatasetFacts) -> np.ndarray:
        if self.generator is None or len(pool) == 0:
            return np.ones(len(pool), bool)
        column = _column(pool, "generator", "generator").astype(str)
        if self.generator not in column:
            raise ValueError(
                f"divergen keeps the generator {self.generator!r}, and the pool has {', '.join(np.unique(column))}"
            )
        own: np.ndarray = column == self.generator
        return own

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
    """(N,) int64: an order of rows in which every prefix is balanced over the categories.

    All categories give one instance, then all give a second, and so on; the order within a round and within a category
    is pseudo-random and always the same, so that subsets nest.
    """
    rng = np.random.Generator(np.random.PCG64(filters.ORDER_SEED))
    place = filters.place_in_category(categories, rng.random(len(categories)))
    turn = rng.random(int(categories.max(initial=0)) + 1)
    return np.lexsort((turn[categories], place))


def inter_similarity(path: Path, categories: np.ndarray) -> np.ndarray:
    """(N,) mean cosine similarity of each pool instance to the real instances of its category, NaN without any.

    Raises ValueError if the file lacks an array, or does not fit the pool's `categories` (N,).
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


def _column(pool: Pool, name: str, option: str) -> np.ndarray:
    if name not in pool.columns:
        raise ValueError(f"divergen's {option} needs the column {name} in the pool's index, which has none")
    return np.asarray(pool.column(name))
