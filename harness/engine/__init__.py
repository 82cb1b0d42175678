"""Engines by name. Their modules are imported only when asked for, since each needs a framework of its own."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError, nearest

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

    from harness.config import RunConfig
    from harness.engine.contract import Engine
    from methods.contract import Need


@dataclass(frozen=True)
class Origin:
    """The module with an engine's `build` and `CAPABILITIES`, the package that it needs, and how to install it."""

    module: str
    package: str
    install: str


ENGINES = {
    "native": Origin("harness.engine.native", "torch", "pip install bsgal-bench"),
    "detectron2": Origin(
        "harness.engine.detectron2.engine",
        "detectron2",
        "pip install 'bsgal-bench[detectron2]' ninja, then "
        "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'",
    ),
    "mmdet": Origin("harness.engine.mmdet.engine", "mmdet", "pip install 'bsgal-bench[mmdet]'"),
}


def create(config: RunConfig, num_classes: int, image_counts: np.ndarray) -> Engine:
    """Builds the engine named by `config.engine.name`, on the CPU.

    It trains `num_classes` classes and predicts only the first C of them; `image_counts` (C,) int64 are the training
    images per category of the dataset. Raises UserError if the engine is unknown or not installed.
    """
    engine: Engine = _module(config.engine.name).build(config, num_classes, image_counts)
    return engine


def capabilities(name: str) -> frozenset[Need]:
    """What an engine can do. Raises UserError if it is unknown or not installed."""
    found: frozenset[Need] = _module(name).CAPABILITIES
    return found


def engines_with(needs: frozenset[Need]) -> list[str]:
    """Installed engines that can do what is needed."""
    installed = [name for name, origin in ENGINES.items() if importlib.util.find_spec(origin.package)]
    return [name for name in installed if needs <= capabilities(name)]


def _module(name: str) -> ModuleType:
    if name not in ENGINES:
        raise UserError(f"engine.name={name}: no such engine; {nearest(name, ENGINES)}")
    origin = ENGINES[name]
    if importlib.util.find_spec(origin.package) is None:
        raise UserError(f"engine.name={name}: the package {origin.package} is not installed; {origin.install}")
    return importlib.import_module(origin.module)
