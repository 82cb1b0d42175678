"""Images for evaluation, decoded ahead of the detector."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from harness.data.augment import evaluation_size, resize
from harness.data.dataset import Dataset
from harness.data.images import TrainingImages

AHEAD = 4  # images decoded in advance, per thread

EvaluationImage = tuple[int, Tensor, tuple[int, int]]


def evaluation_indices(dataset: Dataset, limit: int | None, rank: int = 0, world: int = 1) -> range:
    """The validation images that a rank evaluates: every `world`-th of the first `limit`, or of all if that is None."""
    total = len(dataset.val.image_ids)
    return range(total if limit is None else min(total, limit))[rank::world]


def evaluation_images(dataset: Dataset, indices: range) -> Iterator[EvaluationImage]:
    """Yields (index of a validation image, (3, h, w) uint8 RGB at the test size, (height, width) on disk).

    They come in the order of `indices`. Raises UserError for an image that is missing or damaged.
    """
    data = dataset.config
    images = TrainingImages(dataset.val, dataset.image_root)

    def load(index: int) -> EvaluationImage:
        image = images.read(index)
        height, width = image.shape[:2]
        size = evaluation_size(height, width, data.test_short, data.test_long)
        planes = torch.from_numpy(resize(image, size)).permute(2, 0, 1).contiguous()
        return index, planes, (height, width)

    threads = max(1, data.workers)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[EvaluationImage]] = deque()
        for index in indices:
            waiting.append(pool.submit(load, index))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
