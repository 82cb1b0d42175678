"""Evaluating a detector in a run: predictions sharded over ranks, matched where they are made, accumulated once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
from harness.run.evaluation_shards import Shards
from harness.run.signals import Interrupted
from harness.training.distributed import Agreement, Ranks

IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")
ENCODED_BEHIND = 2  # chunks whose masks are encoded while the next are predicted
CHUNKS_BETWEEN_WORDS = 8  # ranks ask one another whether to stop; in between they do not wait for the slowest


@dataclass
class Evaluating:
    """What an evaluation needs from its run.

    `before_write` is called before anything is written; `progress` with a number of images that are done.
    """

    config: EvaluationConfig
    annotations: Annotations
    ranks: Ranks
    stop_asked: Callable[[], bool] = lambda: False
    before_write: Callable[[], None] = lambda: None
    progress: Callable[[int], object] = lambda count: None

    def run(
        self, engine: Engine, images: Callable[[range], Iterable[EvaluationImage]], indices: range, shards: Path
    ) -> tuple[Evaluation, Detections | None] | None:
        """Box and mask AP of this rank's images, `indices` of the annotations, and its peers' together; None on all
        ranks but rank 0. The detections where the configuration asks for them.

        Resumes from what the folder `shards` holds. Raises Interrupted on every rank, with all saved, where one was
        asked to stop.
        """
        detections = self._detections(engine, images, indices, Shards(shards, self.ranks))
        places = np.array(indices, np.int64)
        matches = {kind: match(self.annotations, detections, kind, places, with_faults=True) for kind in IOU_TYPES}
        gathered = self.ranks.gather((matches, detections if self.config.save_detections else None))
        if not self.ranks.is_main:
            return None
        merged = {kind: merge([part[0][kind] for part in gathered]) for kind in IOU_TYPES}
        together = Detections.concatenate([part[1] for part in gathered]) if self.config.save_detections else None
        return accumulate(self.annotations, merged), together

    def _detections(
        self,
        engine: Engine,
        images: Callable[[range], Iterable[EvaluationImage]],
        indices: range,
        shards: Shards,
    ) -> Detections:
        found, fresh = shards.read(), []
        done, saved, stop = shards.done, time.monotonic(), False
        self.progress(done)
        words = self._words(len(indices) - done)
        for part, count in _predicted(engine, _chunks(images(indices[done:]), self.config.batch), self.annotations):
            fresh.append(part)
            done += count
            self.progress(count)
            stop = next(words)
            if stop:
                break
            if time.monotonic() - saved > 60 * self.config.save_minutes:
                self._save(shards, fresh, done)
                found, fresh, saved = [*found, *fresh], [], time.monotonic()
        if stop or any(words):
            self._save(shards, fresh, done)
            self.ranks.barrier()
            raise Interrupted(f"evaluation stopped after {done} of this rank's {len(indices)} images")
        return Detections.concatenate([*found, *fresh])

    def _words(self, images: int) -> Iterator[bool]:
        """Whether to stop, after each chunk; equally often on every rank, however many images it has left."""
        agreement = Agreement(self.ranks)
        between = 1 if self.ranks.world == 1 else CHUNKS_BETWEEN_WORDS
        for chunk in range(int(self.ranks.most(-(-images // self.config.batch)))):
            stop = chunk % between == 0 and agreement.exchange(self.stop_asked())[0]
            if stop:
                agreement.finish()
            yield stop
        agreement.finish()

    def _save(self, shards: Shards, fresh: list[Detections], done: int) -> None:
        self.before_write()
        shards.write(Detections.concatenate(fresh), done)


def in_percent(metrics: Mapping[IouType, Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Metrics in a record's units."""
    return {
        kind: {name: None if value is None else 100 * value for name, value in figures.items()}
        for kind, figures in metrics.items()
    }


def _chunks(images: Iterable[EvaluationImage], size: int) -> Iterator[list[EvaluationImage]]:
    rest = iter(images)
    while chunk := list(islice(rest, size)):
        yield chunk


def _predicted(
    engine: Engine, chunks: Iterable[list[EvaluationImage]], annotations: Annotations
) -> Iterator[tuple[Detections, int]]:
    """The detections of each chunk, and how many images it has; masks are encoded while the next chunk is predicted."""
    with ThreadPoolExecutor(1) as encoder:
        waiting: deque[Future[tuple[Detections, int]]] = deque()
        for images in chunks:
            predictions = engine.predict([pixels for _, pixels, _ in images], [size for _, _, size in images])
            waiting.append(encoder.submit(_columns, [index for index, _, _ in images], predictions, annotations))
            if len(waiting) > ENCODED_BEHIND:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _columns(indices: list[int], predictions: list[Prediction], annotations: Annotations) -> tuple[Detections, int]:
    """Categories beyond the dataset's own (DiverGen's extra ones) are dropped."""
    parts = []
    for index, found in zip(indices, predictions, strict=True):
        labels = found.labels.numpy()
        known = np.flatnonzero(labels < len(annotations.category_ids))
        boxes = found.boxes.numpy().astype(np.float64)[known]
        boxes[:, 2:] -= boxes[:, :2]
        rles = found.rles
        parts.append(
            Detections.build(
                np.full(len(known), annotations.image_ids[index]),
                annotations.category_ids[labels[known]],
                found.scores.numpy()[known],
                boxes,
                [rles[i] for i in known],
            )
        )
    return Detections.concatenate(parts), len(parts)
