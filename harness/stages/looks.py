"""One instance at a time in training images: what the stages that ask the detector look at.

Every instance is pasted alone into the same few training images, with the same draws of size and place, so that scores
differ by the instance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.data.dataset import Dataset
from harness.data.pool.pool import InstancePool
from harness.data.sample import Batch, Sample, View
from harness.data.training import TrainingData
from methods.bsgal import BSGAL, ReferencePolicy
from methods.contract import DatasetFacts, Draw, ImageFacts, Method, Pool


@dataclass
class _OneInstance(Method):
    """Pastes the given row, and takes reference images of that row's category or by another policy."""

    row: int = 0
    reference_policy: ReferencePolicy = ReferencePolicy.drawn_class

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        return Draw(rows=np.array([self.row], np.int64))

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int | tuple[int, ...] | None:
        if self.reference_policy is not ReferencePolicy.drawn_class:
            return BSGAL(reference_policy=self.reference_policy).reference(draw, dataset, rng)
        images = dataset.images_of(int(draw.categories[0]))
        return int(rng.choice(images)) if len(images) else None


class Looks:
    """Training images with one instance of a pool in each."""

    def __init__(
        self,
        dataset: Dataset,
        pool: InstancePool,
        seed: int,
        hosts: int,
        policy: ReferencePolicy | None = None,
    ) -> None:
        """`policy`: of the reference images; without it there are none."""
        method = _OneInstance(reference_policy=policy) if policy is not None else _Unreferenced()
        self._data = TrainingData(dataset, seed, method, pool)
        self.hosts = hosts

    def at(self, row: int) -> list[Sample]:
        """The instance in each of the `hosts` images where it could be read and placed."""
        samples = [self._sample(row, position) for position in range(self.hosts)]
        return [sample for sample in samples if sample.augmented is not None]

    def references(self, row: int, count: int) -> list[View]:
        """`count` reference images at most for the instances of the row's category."""
        return Batch([self._sample(row, position) for position in range(count)]).reference

    def _sample(self, row: int, position: int) -> Sample:
        assert isinstance(self._data.method, _OneInstance)
        self._data.method.row = row
        return self._data[position]


@dataclass
class _Unreferenced(_OneInstance):
    def uses_reference(self) -> bool:
        return False
