"""A score by a rule of one's own: one function in a file.

    # sharp.py
    def score(instances):                 # or: score(instances, detector)
        return [instance.image.std() for instance in instances]

It is called with up to 128 instances of one category at a time (`PoolInstance`), and returns one number for each, the
higher the better, NaN for none. With a second parameter it gets the run's detector, a `harness.engine.contract.Engine`:
`detector.predict(images, sizes)`, or torch's module, `detector.module`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.dataset import Dataset
from harness.data.paste.cutout import FaultyInstance
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.stages.chunks import Chunk
from methods import sources

MODULE = "bsgal_bench_rule_{}"  # with the file's name


@dataclass(frozen=True)
class PoolInstance:
    """An instance of the pool: its row, its 0-based category and that one's name (empty for one beyond the dataset's
    own), its path, and its image (H, W, 4) uint8 RGBA as it lies on disk."""

    row: int
    category: int
    name: str
    path: str
    image: np.ndarray


@dataclass(frozen=True)
class Rule:
    file: Path
    module: str
    score: Callable[..., Any]
    takes_detector: bool

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file and the helpers that it imports."""
        return sources.fingerprint([self.module], [], {self.module: self.file})


@cache
def read_rule(file: Path) -> Rule:
    """Reads a rule's file. Raises UserError for a file that is missing, does not run or has no such function."""
    if not file.is_file():
        raise UserError(f"stage.by: {file} does not exist; paths are relative to the folder you are in")
    name = MODULE.format(file.stem)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"stage.by: {file} cannot be imported: {type(error).__name__}: {error}") from error
    score = getattr(module, "score", None)
    if not callable(score):
        raise UserError(f"stage.by: {file} has no function `score(instances)`")
    parameters = inspect.signature(score).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) not in (1, 2):
        raise UserError(
            f"stage.by: score in {file} takes (instances) or (instances, detector), not {len(needed)} arguments"
        )
    return Rule(file, name, score, len(needed) == 2)


class OwnRule:
    """Scores of chunks by a rule."""

    def __init__(self, rule: Rule, dataset: Dataset, engine: Engine) -> None:
        self.rule, self.dataset, self.engine = rule, dataset, engine
        self.paths = dataset.pool.column("path") if "path" in dataset.pool.columns else None

    def __call__(self, chunk: Chunk) -> np.ndarray:
        scores = np.full(len(chunk.rows), np.nan)
        opened = {place: found for place, row in enumerate(chunk.rows.tolist()) if (found := self._open(row, chunk))}
        if opened:
            scores[list(opened)] = self._numbers(list(opened.values()))
        return scores

    def _open(self, row: int, chunk: Chunk) -> PoolInstance | None:
        names = self.dataset.train.category_names
        try:
            image = self.dataset.pool.open(row)
        except FaultyInstance:
            return None
        name = str(names[chunk.category]) if chunk.category < len(names) else ""
        return PoolInstance(row, chunk.category, name, "" if self.paths is None else str(self.paths[row]), image)

    def _numbers(self, instances: list[PoolInstance]) -> np.ndarray:
        further = (self.engine,) if self.rule.takes_detector else ()
        returned = self.rule.score(instances, *further)
        try:
            numbers = np.asarray(returned, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.rule.file}: score must return one number per instance, not {returned!r}") from error
        if numbers.shape != (len(instances),):
            raise UserError(
                f"{self.rule.file}: score must return one number for each of its {len(instances)} instances; "
                f"its result has shape {numbers.shape}"
            )
        if np.isinf(numbers).any():
            raise UserError(f"{self.rule.file}: score returned an infinite number; return NaN for no score")
        return numbers
