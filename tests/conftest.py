"""What tests share: one embedded dataset, kept between sessions in pytest's own cache folder, and a small one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.config import DataConfig, RunConfig, ScheduleConfig
from harness.data.facts import TrainingFacts
from harness.data.lvis.annotations import Annotations
from harness.data.lvis.cache import load_annotations
from harness.data.mini.make import MiniPaths, make_mini
from methods.contract import Method


def pytest_configure(config: pytest.Config) -> None:
    os.environ["BSGAL_BENCH_CACHE"] = str(config.cache.mkdir("bsgal-bench"))  # type: ignore[union-attr]
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def mini_root() -> Path:
    """The embedded dataset at its full size, where `data=mini` looks for it."""
    return make_mini(Path(os.environ["BSGAL_BENCH_CACHE"]) / "mini").folder


@dataclass
class SmallMini:
    paths: MiniPaths
    annotations: Annotations
    facts: TrainingFacts

    def config(self, method: Method, *, workers: int = 0, iterations: int = 3, **data: object) -> RunConfig:
        settings = {
            "name": "small",
            "root": str(self.paths.folder),
            "pool": "half_bad",
            "size": 96,
            "scale_min": 0.5,
            "scale_max": 1.5,
            "test_short": 64,
            "test_long": 80,
            "repeat_threshold": 0.1,
            "workers": workers,
        }
        schedule = ScheduleConfig(iterations=iterations, global_batch=4, batch_per_rank=4, lr=1e-3)
        return RunConfig(data=DataConfig(**(settings | data)), schedule=schedule, method=method)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallMini:
    paths = make_mini(tmp_path_factory.mktemp("data") / "mini", train_images=40, val_images=12, pool_instances=6)
    annotations = load_annotations(paths.train_annotations, paths.folder / "cache")
    return SmallMini(paths, annotations, TrainingFacts(annotations))


@pytest.fixture
def write_pool(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "pool.json"
        path.write_text(text)
        return path

    return write
