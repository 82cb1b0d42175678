"""What a run was made from and on: code, packages, hardware, jobs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from harness.run.scheduler import own_job

PACKAGES = ("torch", "torchvision", "timm", "numpy", "hydra-core", "submitit", "opencv-python-headless", "pycocotools")
# What a result depends on. The schema and conf/ belong to it since a run_id leaves out what equals a default: a
# default that changes renames no run, but makes what it gave stale.
RESULT_SOURCES = (
    "backbones",
    "methods",
    "harness/config.py",
    "harness/conf",
    "harness/data",
    "harness/detector",
    "harness/engine",
    "harness/evaluate",
    "harness/stages",
    "harness/training",
    "harness/weights",
    "harness/record/precision.py",
    "harness/run/evaluation.py",
)
NO_RESULT = "harness/conf/launcher"  # where and with what a run is executed
ENGINE_PACKAGES = ("detectron2", "mmdet", "mmcv", "mmcv-lite", "mmengine")
LOCAL_JOB = "BSGAL_BENCH_LOCAL_JOB"  # the variable that names a job of launcher=local to its processes


def provenance() -> dict[str, Any]:
    """Code (a fingerprint of the installed sources, git commit and dirty diff), packages, hardware, SLURM job."""
    return {
        **sources(),
        "packages": {name: version for name in PACKAGES + ENGINE_PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "hardware": _hardware(),
        "job": own_job() or os.environ.get(LOCAL_JOB),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
    }


def sources() -> dict[str, str | None]:
    """The code that this process executes, as it was when it first asked: fingerprint, git commit and dirty diff."""
    return {"code": code_fingerprint(), **_git()}


@cache
def code_fingerprint() -> str:
    """SHA-256 over the sources that a result depends on, with the configuration's schema and files."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for place in RESULT_SOURCES:
        for path in _sources(root / place):
            if not path.is_relative_to(root / NO_RESULT):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources(place: Path) -> list[Path]:
    files = place.rglob("*") if place.is_dir() else [place]
    return sorted(path for path in files if path.suffix in (".py", ".yaml"))


@cache
def _git() -> dict[str, str | None]:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty_diff": None}
    commit = _output(root, "rev-parse", "HEAD")
    diff = _output(root, "diff", "HEAD")
    return {"commit": commit, "dirty_diff": hashlib.sha256(diff.encode()).hexdigest() if diff else None}


def _output(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import psutil
    import torch

    return {
        "host": platform.node(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
