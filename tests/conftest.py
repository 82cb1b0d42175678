"""What tests share: one embedded dataset, a small one, a trained baseline; and which tests begin."""

import gc
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis  # noqa: F401  before what is imported is frozen: it counts references, which are not seen then
import psutil
import pytest
import torch
from filelock import FileLock

from harness.config import DataConfig, RunConfig, ScheduleConfig
from harness.data import seeding
from harness.data.facts import TrainingFacts
from harness.data.lvis.annotations import Annotations
from harness.data.lvis.cache import load_annotations
from harness.data.mini import make
from harness.data.mini.make import MiniPaths, make_mini
from harness.launch.forks import Forks
from methods.contract import Method

if TYPE_CHECKING:
    from tests.small_training import Trained

# Given a name and what makes a folder, that folder.
MakeOnce = Callable[[str, Callable[[Path], object]], Path]
# What computes longest begins, so that no worker is left alone with it at the end.
LONGEST = (
    "tests/training/test_distributed.py",
    "tests/run/test_survival.py",
    "tests/engine/test_mmdet_methods.py",
    "tests/golden/test_bsgal.py",
    "tests/launch/test_shipped_lvis.py",
    "tests/launch/test_local.py",
    "tests/reports/test_browser.py",
    "tests/test_docs.py",
    "tests/launch/test_shipped.py",
    "tests/evaluate/test_equal_to_lvis.py",
    "tests/commands/test_full_disk.py",
    "tests/engine/test_mmdet.py",
    "tests/run/test_end_to_end.py",
    "tests/methods/test_bsgal.py",
    "tests/launch/test_expand.py",
    "tests/methods/test_conformance.py",
    "tests/run/test_single_instances.py",
)


def pytest_configure(config: pytest.Config) -> None:
    assert config.cache is not None
    os.environ["BSGAL_BENCH_CACHE"] = str(config.cache.mkdir(f"bsgal-bench-{_mini_sources()}"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every worker and process would compile the package anew
    # One thread here and in the processes that tests start: workers and SLURM's jobs share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores, since tests of SLURM wait; eight at most, and one for every 2 GiB of free memory."""
    free = psutil.virtual_memory().available // 2**31
    return int(max(1, min((psutil.cpu_count() or 1) + 2, 8, free)))


def _mini_sources() -> str:
    """Tells apart what different code makes of `data=mini`."""
    files = [Path(seeding.__file__), *sorted(Path(make.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in turn: one that computes and one of SLURM's, whose tests wait, so that the cores have work meanwhile."""
    files = dict.fromkeys(_file(item) for item in items)
    waiting = [file for file in files if file.startswith("tests/slurm/")]
    computing = [file for file in files if file not in waiting]
    computing.sort(key=lambda file: LONGEST.index(file) if file in LONGEST else len(LONGEST))
    order = [file for pair in zip_longest(computing, waiting) for file in pair]
    items.sort(key=lambda item: order.index(_file(item)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing that is imported is garbage, and looking for some took an eighth of the tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """A run in a folder that its group may write to changes the umask of its process, which here goes on."""
    earlier = os.umask(0o022)
    yield
    os.umask(earlier)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session, one for all its workers."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def make_once(shared: Path) -> MakeOnce:
    """Makes a folder of this session in the first of its workers that asks for it; the others wait until it is there.

    What it makes is not to be changed.
    """

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                path.mkdir()
                make(path)
                whole.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def mini_root() -> Path:
    """The embedded dataset at its full size, where `data=mini` looks for it, kept between sessions."""
    return make_mini(Path(os.environ["BSGAL_BENCH_CACHE"]) / "mini").folder


@pytest.fixture(scope="session")
def trained_baseline(shared: Path, mini_root: Path) -> "Trained":
    from tests.small_training import train_baseline

    with FileLock(shared / "trained_baseline.lock"):  # the second worker finds the run complete
        return train_baseline(shared / "trained_baseline")


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
    return SmallMini(paths, annotations, TrainingFacts(annotations, paths.folder / "coco"))


@pytest.fixture
def write_pool(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "pool.json"
        path.write_text(text)
        return path

    return write
