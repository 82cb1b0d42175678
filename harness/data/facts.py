"""Statistics of the training set, as methods read them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from harness.data.lvis.annotations import Annotations
from harness.data.pool.pool import InstancePool, joined, training_pool
from methods.contract import Pool


class TrainingFacts:
    """`methods.contract.DatasetFacts` over annotations; the class-to-images index is built once, on first use."""

    def __init__(self, annotations: Annotations, image_root: Path) -> None:
        self.annotations = annotations
        self.image_root = image_root

    def __reduce__(self) -> tuple[type[TrainingFacts], tuple[Annotations, Path]]:
        return TrainingFacts, (self.annotations, self.image_root)

    @property
    def num_images(self) -> int:
        return len(self.annotations.image_ids)

    @property
    def num_categories(self) -> int:
        return len(self.annotations.category_ids)

    @property
    def frequency(self) -> np.ndarray:
        return self.annotations.frequency

    @property
    def image_count(self) -> np.ndarray:
        return self.annotations.image_counts

    def images_of(self, category: int) -> np.ndarray:
        images, offsets = self._by_category
        if not 0 <= category < self.num_categories:
            return images[:0]
        return images[offsets[category] : offsets[category + 1]]

    def categories_of(self, image: int) -> np.ndarray:
        known = self.annotations
        span = known.annotations_of(image)
        return np.unique(known.annotation_categories[span][~known.ignore[span]]).astype(np.int64)

    def instance_pool(self) -> Pool:
        return training_pool(self.annotations, self.image_root)

    def join(self, first: Pool, second: Pool) -> InstancePool:
        return joined(first, second)

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Every (category, image) with an annotation once, ordered by category, then image; two (P,) int64 arrays."""
        known = self.annotations
        used = ~known.ignore
        category = known.annotation_categories[used].astype(np.int64)
        key = np.unique(category * self.num_images + known.annotation_images[used])
        return key // self.num_images, key % self.num_images

    @cached_property
    def _by_category(self) -> tuple[np.ndarray, list[int]]:
        categories, images = self.pairs
        return images, np.searchsorted(categories, np.arange(self.num_categories + 1)).tolist()
