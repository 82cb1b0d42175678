"""A stage from its rows to its file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import RunConfig, Stage
from harness.data.dataset import Dataset
from harness.data.pool.pool import InstancePool
from harness.data.seeding import generator
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.record.files import write_atomically
from harness.stages.chunks import Chunk, ChunkedWork, chunks_of
from harness.stages.embedding import Embedding
from harness.stages.own_rule import read_rule
from harness.stages.scoring import check_score, is_file, scorer

# What a stage leaves in its run's folder.
FILES = {Stage.score: "scores.csv", Stage.embed: "embeddings.npy"}


def check_stage(config: RunConfig) -> None:
    """Raises UserError for a stage that cannot be what was meant."""
    stage = config.stage
    if stage.name is Stage.none:
        return
    if stage.name is Stage.score:
        check_score(stage)
    if config.data.pool is None:
        raise UserError(f"stage={stage.name.name} needs a pool: give data.pool=PATH")
    frozen = config.init_from or config.weights or (stage.name is Stage.embed and config.backbone.weights)
    asks = stage.name is Stage.embed or not is_file(stage.by) or read_rule(Path(stage.by)).takes_detector
    if asks and not frozen:
        further = ", or backbone.weights=FILE" if stage.name is Stage.embed else ""
        raise UserError(
            f"stage={stage.name.name} needs a trained detector: give init_from=RUN_ID or weights=FILE{further}"
        )


def carry_out(config: RunConfig, dataset: Dataset, engine: Engine, work: ChunkedWork) -> dict[str, Any] | None:
    """Does what is left of a stage and writes its file; figures for the record, None if it was asked to stop."""
    pool = dataset.pool
    is_score = config.stage.name is Stage.score
    rows = _chosen(pool, config) if is_score else np.arange(len(pool))
    chunks = chunks_of(pool.categories, rows)
    if is_score and "path" not in pool.columns:
        raise UserError("the pool has no column `path`, so its scores could not be matched to it later")
    do = scorer(config, dataset, engine) if is_score else Embedding(engine, pool, config.stage.size)
    if not work.done(chunks, do):
        return None
    if not work.ranks.is_main:
        return {}
    work.before_write()
    out = work.folder / FILES[config.stage.name]
    missing = _write_scores(out, pool, chunks, work) if is_score else _write_embeddings(out, pool, chunks, work)
    return {"file": out.name, "rows": len(rows), "without": missing}


def _chosen(pool: InstancePool, config: RunConfig) -> np.ndarray:
    """(M,) int64 rows, ascending; a smaller `per_category` is part of a larger one."""
    if config.stage.per_category is None:
        return np.arange(len(pool))
    rng = generator(config.seed, "score/rows")
    parts = [rng.permutation(pool.rows_of(int(c)))[: config.stage.per_category] for c in pool.present_categories]
    return np.sort(np.concatenate(parts))


def _write_scores(out: Path, pool: InstancePool, chunks: list[Chunk], work: ChunkedWork) -> int:
    """A ranking, best first; how many have no score."""
    rows = np.concatenate([chunk.rows for chunk in chunks])
    scores = np.concatenate(work.results(chunks))
    write_ranking(out, pool, rows, scores)
    return int(np.isnan(scores).sum())


def write_ranking(
    out: Path, pool: InstancePool, rows: np.ndarray, scores: np.ndarray, kinds: np.ndarray | None = None
) -> None:
    """A CSV, best first: rank, category, path, score, and kind where `kinds` (N,) says what each instance really is."""
    paths = pool.column("path")
    order = np.lexsort((rows, -np.nan_to_num(scores, nan=-np.inf)))
    with write_atomically(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "category", "path", "score", *(["kind"] if kinds is not None else [])])
        for rank, place in enumerate(order, 1):
            row, score = rows[place], scores[place]
            shown = "" if np.isnan(score) else repr(float(score))
            truth = [kinds[row]] if kinds is not None else []
            writer.writerow([rank, int(pool.categories[row]), paths[row], shown, *truth])


def _write_embeddings(out: Path, pool: InstancePool, chunks: list[Chunk], work: ChunkedWork) -> int:
    """(N, D) float16 in the order of the pool's rows; how many have none."""
    parts = work.results(chunks)
    shape = len(pool), parts[0].shape[1]
    missing = 0
    with write_atomically(out) as temporary:
        whole = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for chunk, part in zip(chunks, parts, strict=True):
            whole[chunk.rows] = part
            missing += int(np.isnan(part[:, 0]).sum())
        whole.flush()
    return missing
