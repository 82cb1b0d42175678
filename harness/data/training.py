"""The training data: a sample as a function of its global position, and the loader that makes batches of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from harness.config import MaskTargets, ScheduleConfig
from harness.data.augment import Jitter, draw_jitter
from harness.data.dataset import Dataset
from harness.data.images import TrainingImages
from harness.data.paste.area_statistics import area_statistics, statistics_file
from harness.data.paste.paster import Paster
from harness.data.policies import Policies
from harness.data.pool.pool import InstancePool
from harness.data.sample import Batch, Sample, View
from harness.data.sample_order import SampleOrder, batch_positions, grouped_positions, repeat_factors
from harness.data.seeding import generator
from harness.data.targets import Instance, outlined_targets, to_targets, visible_instances
from harness.data.transport import PackedBatch, pack, unpack
from harness.data.workers import held_back, start_worker
from harness.errors import UserError
from methods.contract import Draw, ImageFacts, Method


class TrainingData(torch.utils.data.Dataset[Sample]):
    """Maps a global position to its sample; equal in every process.

    Original and augmented view share one decode and one jitter. Each purpose draws from its own generator, so pasting
    never changes the original view.
    """

    def __init__(self, dataset: Dataset, seed: int, method: Method, pool: InstancePool) -> None:
        """Takes a copy of `method` as it is now: make it before `Method.start`. `pool` is the prepared one."""
        self.data = data = dataset.config
        self.seed = seed
        self.annotations = dataset.train
        self.facts = dataset.facts
        self.method = copy.deepcopy(method)
        self.pool = pool
        self.order = SampleOrder(repeat_factors(self.facts, data.repeat_threshold), seed)
        self.images = TrainingImages(self.annotations, dataset.image_root)
        statistics = area_statistics(self.annotations, statistics_file(data.area_statistics))
        self.paster = Paster(pool, self.images, statistics, data)

    def __getitem__(self, position: int) -> Sample:
        return self.sample(position)

    def sample(self, position: int, policy: np.ndarray | None = None) -> Sample:
        """The sample at a position, drawn by a policy of the method's where it has one."""
        index = self.order.image_at(position)
        rng = generator(self.seed, "augment", position)
        jitter = self._jitter(index, rng)
        image = np.ascontiguousarray(jitter.image(self.images.read(index)))
        if self.data.mask_targets is MaskTargets.polygon:  # no method that pastes is combined with it
            return Sample(position, index, View(_planes(image), outlined_targets(self.annotations, index, jitter)))
        instances = visible_instances(self.annotations, index, jitter)
        draw = self._draw(index, position, instances, policy)
        augmented: View | None = None
        skipped: Mapping[str, int] = {}
        if len(draw.rows):
            rng = generator(self.seed, "paste", position)
            pasted, shown, skipped = self.paster.paste(image, instances, draw, rng)
            if pasted is not image:
                augmented = _view(pasted, shown)
        return Sample(
            position,
            index,
            _view(image, instances),
            augmented,
            self._references(draw, position),
            torch.from_numpy(draw.rows),
            dict(skipped),
        )

    @cached_property
    def _uses_reference(self) -> bool:
        return self.method.uses_reference()

    @cached_property
    def _has_policy(self) -> bool:
        return Policies.of(self.method) is not None

    def _jitter(self, index: int, rng: np.random.Generator) -> Jitter:
        source = int(self.annotations.heights[index]), int(self.annotations.widths[index])
        scale = self.data.scale_min, self.data.scale_max
        return draw_jitter(source, (self.data.size, self.data.size), scale, self.data.flip, rng)

    def _draw(self, index: int, position: int, instances: list[Instance], policy: np.ndarray | None) -> Draw:
        height, width = int(self.annotations.heights[index]), int(self.annotations.widths[index])
        image = ImageFacts(index, width, height, self.facts.categories_of(index))
        heeded = {"policy": policy} if self._has_policy else {}
        draw = self.method.draw(image, self.pool, generator(self.seed, "draw", position), **heeded)
        rows = np.array(draw.rows, np.int64)
        visible = np.unique(np.array([instance.label for instance in instances], np.int64))
        return replace(draw, rows=rows, categories=self.pool.categories[rows], image=image, visible_categories=visible)

    def _references(self, draw: Draw, position: int) -> tuple[View | None, ...]:
        if not self._uses_reference:
            return ()
        rng = generator(self.seed, "reference", position)
        asked = self.method.reference(draw, self.facts, rng)
        if asked is None:
            return ()
        return tuple(self._reference(index, rng) for index in np.atleast_1d(asked).tolist())

    def _reference(self, index: int, rng: np.random.Generator) -> View | None:
        jitter = self._jitter(index, rng)
        instances = visible_instances(self.annotations, index, jitter)
        if not instances and not self.method.keeps_emptied_references():
            return None
        return _view(jitter.image(self.images.read(index)), instances)


def training_loader(
    data: TrainingData,
    schedule: ScheduleConfig,
    start_iteration: int = 0,
    rank: int = 0,
    world: int = 1,
    policies: Policies | None = None,
) -> Iterator[Batch]:
    """This rank's batches from `start_iteration` to the end of the schedule, the same for any number of workers;
    `schedule.accumulate` of them an iteration.

    `policies` takes in what the method gives after each step, before the next batch is asked for.

    Raises UserError for more workers than policies allow and, while iterating, for a training image that is missing or
    damaged.
    """
    loader: DataLoader[Any] = DataLoader(
        _Guarded(data),
        batch_sampler=_requests(data, schedule, start_iteration, rank, world, policies),  # type: ignore[arg-type]
        num_workers=data.data.workers,
        # However this process was started: one that was spawned would spawn its workers, and each would load torch.
        multiprocessing_context="fork" if data.data.workers else None,
        prefetch_factor=policies.prefetch(data.data.workers) if policies else None,
        collate_fn=_collate,
        worker_init_fn=start_worker,
    )
    return _unpacked(loader)


# The positions of a batch and the policy that its draws use, made when the batch is asked for.
_Request = tuple[list[int], np.ndarray | None]


def _requests(
    data: TrainingData, schedule: ScheduleConfig, first: int, rank: int, world: int, policies: Policies | None
) -> Iterator[_Request]:
    for place, batch in enumerate(_positions(data, schedule, first, rank, world)):
        yield batch, policies.heeded_at(first + place // schedule.accumulate) if policies else None


def _positions(data: TrainingData, schedule: ScheduleConfig, start: int, rank: int, world: int) -> Iterable[list[int]]:
    """The positions of this rank's batches. With `accumulate`, an iteration takes those of that many ranks in turn."""
    batch, stop, parts = schedule.batch_per_rank, schedule.iterations, schedule.accumulate
    wide = data.annotations.widths > data.annotations.heights if data.data.aspect_grouping else None
    streams = [
        batch_positions(start, stop, batch, each, world * parts)
        if wide is None
        else grouped_positions(data.order, wide, start, stop, batch, each, world * parts)
        for each in range(rank * parts, (rank + 1) * parts)
    ]
    return chain.from_iterable(zip(*streams, strict=True))


class _Guarded(torch.utils.data.Dataset["Sample | UserError"]):
    """Returns a user's error as a value: if raised, the loader would wrap it into a traceback."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    def __getitems__(self, request: _Request) -> list[Sample | UserError]:
        """Called by torch with each item that the batch sampler yields."""
        positions, policy = request
        if policy is not None:
            policy.setflags(write=False)  # which pickling forgets
        return [self._guarded(position, policy) for position in positions]

    def _guarded(self, position: int, policy: np.ndarray | None) -> Sample | UserError:
        try:
            return self.data.sample(position, policy)
        except UserError as error:
            return error


def _collate(samples: list[Sample | UserError]) -> PackedBatch | UserError:
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    return errors[0] if errors else pack(Batch([sample for sample in samples if isinstance(sample, Sample)]))


def _unpacked(loader: Iterable[PackedBatch | UserError]) -> Iterator[Batch]:
    with held_back():
        batches = iter(loader)
    try:
        for packed in batches:
            if isinstance(packed, UserError):
                raise packed
            yield unpack(packed)
    finally:
        del batches  # ends the workers, which an error's traceback would keep


def _view(image: np.ndarray, instances: list[Instance]) -> View:
    return View(_planes(image), to_targets(instances, (image.shape[0], image.shape[1])))


def _planes(image: np.ndarray) -> torch.Tensor:
    """(3, H, W) of (H, W, 3)."""
    return torch.from_numpy(np.stack(cv2.split(image)))
