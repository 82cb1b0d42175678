"""Evaluating a detector in a run: predictions sharded over ranks, matched where they are made, accumulated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from harness.config import EvaluationConfig
from harness.data.lvis.annotations import Annotations
from harness.data.testing import EvaluationImage
from harness.engine.contract import Engine, Prediction
from harness.evaluate.detections import Detections
from harness.evaluate.lvis_ap import Evaluation, accumulate
from harness.evaluate.matching import IouType, match, merge
from harness.training.distributed import Ranks

IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")


def evaluate_detector(
    config: EvaluationConfig,
    engine: Engine,
    images: Iterable[EvaluationImage],
    indices: Sequence[int],
    annotations: Annotations,
    ranks: Ranks,
    folder: Path,
    progress: Callable[[int], object],
) -> Evaluation | None:
    """Box and mask AP of this rank's images, which are `indices` of the annotations, and its peers' together.

    Gives None on all ranks but rank 0. Writes detections.parquet where the configuration asks for it.
    """
    parts = []
    for chunk in _chunks(images, config.batch):
        parts.append(_predict(engine, chunk, annotations))
        progress(len(chunk))
    detections = Detections.concatenate(parts)
    matches = {kind: match(annotations, detections, kind, np.array(indices, np.int64)) for kind in IOU_TYPES}
    gathered = ranks.gather((matches, detections if config.save_detections else None))
    if not ranks.is_main:
        return None
    if config.save_detections:
        Detections.concatenate([part[1] for part in gathered]).write_parquet(folder / "detections.parquet")
    return accumulate(annotations, {kind: merge([part[0][kind] for part in gathered]) for kind in IOU_TYPES})


def _chunks(images: Iterable[EvaluationImage], size: int) -> Iterable[list[EvaluationImage]]:
    rest = iter(images)
    while chunk := list(islice(rest, size)):
        yield chunk


def _predict(engine: Engine, images: list[EvaluationImage], annotations: Annotations) -> Detections:
    predictions = engine.predict([pixels for _, pixels, _ in images], [size for _, _, size in images])
    return Detections.concatenate(
        [_columns(index, found, annotations) for (index, _, _), found in zip(images, predictions, strict=True)]
    )


def _columns(index: int, found: Prediction, annotations: Annotations) -> Detections:
    """Categories beyond the dataset's own (DiverGen's extra ones) are dropped."""
    labels = found.labels.numpy()
    known = np.flatnonzero(labels < len(annotations.category_ids))
    boxes = found.boxes.numpy().astype(np.float64)[known]
    boxes[:, 2:] -= boxes[:, :2]
    return Detections.build(
        np.full(len(known), annotations.image_ids[index]),
        annotations.category_ids[labels[known]],
        found.scores.numpy()[known],
        boxes,
        [found.rles[i] for i in known],
    )
