"""Images for evaluation, decoded ahead of the detector."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from harness.config import RunConfig
from harness.data import sources
from harness.data.augment import evaluation_size, resize
from harness.data.cutout import TrainingImages
from harness.data.lvis import Annotations

AHEAD = 4  # images decoded in advance, per thread

EvaluationImage = tuple[int, Tensor, tuple[int, int]]


def evaluation_indices(config: RunConfig, annotations: Annotations, rank: int = 0, world: int = 1) -> range:
    """Image indices that a rank evaluates: every `world`-th, of the first `evaluation.limit` where that is set."""
    total, limit = len(annotations.image_ids), config.evaluation.limit
    return range(total if limit is None else min(total, limit))[rank::world]


def evaluation_images(config: RunConfig, annotations: Annotations, indices: range) -> Iterator[EvaluationImage]:
    """Yields (image index, (3, h, w) uint8 RGB at the test size, (height, width) on disk) in the order of `indices`.

    Raises UserError for an image that is missing or damaged.
    """
    images = TrainingImages(annotations, sources.root(config.data) / config.data.images)

    def load(index: int) -> EvaluationImage:
        image = images.read(index)
        height, width = image.shape[:2]
        size = evaluation_size(height, width, config.data.test_short, config.data.test_long)
        planes = torch.from_numpy(resize(image, size)).permute(2, 0, 1).contiguous()
        return index, planes, (height, width)

    threads = max(1, config.data.workers)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[EvaluationImage]] = deque()
        for index in indices:
            waiting.append(pool.submit(load, index))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
