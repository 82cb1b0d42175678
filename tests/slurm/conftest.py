"""Session-wide SLURM clusters; the tests are skipped where SLURM's packages are not installed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import PACKAGES, Cluster, missing_programs, running_cluster
from tests.slurm.project import Project


@contextmanager
def _cluster(accounting: bool) -> Iterator[Cluster]:
    missing = missing_programs()
    if missing:
        pytest.skip(f"no {', '.join(missing)} here; on Debian: apt-get install --no-install-recommends {PACKAGES}")
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    # Short, since sockets' paths may not be longer than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=parent))
    folder.chmod(0o755)  # other users of the cluster read its configuration
    try:
        with running_cluster(folder, accounting) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def accounted() -> Iterator[Cluster]:
    """With slurmdbd."""
    with _cluster(accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def unaccounted() -> Iterator[Cluster]:
    """Without: sacct fails, and what has ended is gone after some minutes."""
    with _cluster(accounting=False) as cluster:
        yield cluster


@pytest.fixture
def project(accounted: Cluster, tmp_path: Path, mini_root: Path) -> Iterator[Project]:
    """An empty folder of a user of the cluster; its jobs end with the test."""
    project = Project(tmp_path, accounted)
    yield project
    for name in project.job_names():
        accounted.command("scancel", f"--name={name}", check=False)
