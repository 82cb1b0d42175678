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


def evaluation_images(
    config: RunConfig, annotations: Annotations, rank: int = 0, world: int = 1
) -> Iterator[EvaluationImage]:
    """Yields (LVIS image id, (3, h, w) uint8 RGB at the test size, (height, width) on disk), in the annotations' order.

    `evaluation.limit` takes the first so many; a rank gets every `world`-th. Raises UserError for an image that is
    missing or damaged.
    """
    images = TrainingImages(annotations, sources.root(config.data) / config.data.images)
    total = len(annotations.image_ids)
    indices = range(total if config.evaluation.limit is None else min(total, config.evaluation.limit))[rank::world]

    def load(index: int) -> EvaluationImage:
        image = images.read(index)
        height, width = image.shape[:2]
        size = evaluation_size(height, width, config.data.test_short, config.data.test_long)
        planes = torch.from_numpy(resize(image, size)).permute(2, 0, 1).contiguous()
        return int(annotations.image_ids[index]), planes, (height, width)

    threads = max(1, config.data.workers)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[EvaluationImage]] = deque()
        for index in indices:
            waiting.append(pool.submit(load, index))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
