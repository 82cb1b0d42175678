"""What tests share: one embedded dataset, kept between sessions in pytest's own cache folder."""

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    os.environ["BSGAL_BENCH_CACHE"] = str(config.cache.mkdir("bsgal-bench"))  # type: ignore[union-attr]
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def mini_root() -> Path:
    """The embedded dataset at its full size, where `data=mini` looks for it."""
    from harness.data.embedded import make_mini

    return make_mini(Path(os.environ["BSGAL_BENCH_CACHE"]) / "mini").folder
