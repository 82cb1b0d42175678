"""Evaluating a detector in a run: predictions sharded over ranks, matched where they are made, accumulated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.config import RunConfig
from harness.data.lvis import Annotations
from harness.distributed import Ranks
from harness.engine.contract import Engine, Prediction
from harness.evaluate.detections import Detections
from harness.evaluate.lvis_ap import Evaluation, accumulate
from harness.evaluate.matching import match, merge

if TYPE_CHECKING:
    from harness.data.testing import TestImage


def evaluate_detector(
    config: RunConfig,
    engine: Engine,
    images: Iterable[TestImage],
    annotations: Annotations,
    ranks: Ranks,
    folder: Path,
    progress: Callable[[int], None],
) -> Evaluation | None:
    """Box and mask AP of this rank's `images` and its peers' together; None on all ranks but rank 0.

    Writes detections.parquet where the configuration asks for it.
    """
    detections, indices = _detect(engine, images, annotations, config.evaluation.batch, progress)
    shard = np.array(indices, np.int64)
    matches = {kind: match(annotations, detections, kind, shard) for kind in ("bbox", "segm")}
    gathered = ranks.gather((matches, detections if config.evaluation.save_detections else None))
    if not ranks.is_main:
        return None
    if config.evaluation.save_detections:
        Detections.concatenate([part[1] for part in gathered]).write_parquet(folder / "detections.parquet")
    return accumulate(annotations, {kind: merge([part[0][kind] for part in gathered]) for kind in ("bbox", "segm")})


def _detect(
    engine: Engine, images: Iterable[TestImage], annotations: Annotations, batch: int, progress: Callable[[int], None]
) -> tuple[Detections, list[int]]:
    parts, indices, waiting = [], [], []
    for image in images:
        waiting.append(image)
        if len(waiting) == batch:
            parts.append(_predict(engine, waiting, annotations))
            indices += [i.index for i in waiting]
            progress(len(waiting))
            waiting = []
    if waiting:
        parts.append(_predict(engine, waiting, annotations))
        indices += [i.index for i in waiting]
        progress(len(waiting))
    return Detections.concatenate(parts), indices


def _predict(engine: Engine, images: list[TestImage], annotations: Annotations) -> Detections:
    predictions = engine.predict([image.image for image in images], [image.size for image in images])
    return Detections.concatenate(
        [_columns(image, found, annotations) for image, found in zip(images, predictions, strict=True)]
    )


def _columns(image: TestImage, found: Prediction, annotations: Annotations) -> Detections:
    """Categories beyond the dataset's own (DiverGen's extra ones) are dropped."""
    known = np.flatnonzero(found.labels.numpy() < len(annotations.category_ids))
    boxes = found.boxes.numpy().astype(np.float64)[known]
    boxes[:, 2:] -= boxes[:, :2]
    return Detections.build(
        np.full(len(known), annotations.image_ids[image.index]),
        annotations.category_ids[found.labels.numpy()[known]],
        found.scores.numpy()[known],
        boxes,
        [found.rles[i] for i in known],  # type: ignore[misc]
    )
