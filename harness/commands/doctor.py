"""`harness doctor`: what is installed and found on this machine, and how to get the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from harness.config import cache_folder
from harness.errors import UserError, first_line
from harness.launch.tables import console
from harness.run.own_packages import in_the_way

# What each engine runs on besides torch, by distribution name; of the last two, mmcv or mmcv-lite.
PARTS: dict[str, tuple[str, ...]] = {
    "native": ("torch", "torchvision", "timm"),
    "detectron2": ("detectron2", "fvcore", "iopath"),
    "mmdet": ("mmdet", "mmengine", "mmcv", "mmcv-lite"),
}
EVALUATORS = ("lvis",)
LEAST_SHARED_GIB = 2.0  # some batches of 4 images of 896² with many instances, for each of two workers
SLURM = ("sbatch", "squeue", "scancel", "scontrol", "sacct")


@dataclass(frozen=True)
class Finding:
    """state: ok, missing or broken; remedy: what to type."""

    subject: str
    state: str
    detail: str
    remedy: str = ""


def doctor() -> int:
    """Prints the findings. Returns 1 if engine=native cannot run, else 0, since everything else is optional."""
    found = list(findings())
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        table.add_row(finding.subject, finding.state, Text(finding.detail))
    out = console()
    out.print(table)
    out.print()
    for finding in found:
        if finding.remedy:
            out.print(
                f"{finding.subject}: {finding.remedy}", soft_wrap=True, highlight=False, markup=False
            )  # to be copied as it is
    return int(any(f.subject == "engine=native" and f.state != "ok" for f in found))


def findings() -> Iterator[Finding]:
    """All findings, in the order in which they are printed."""
    yield Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}")
    yield _working_folder(Path.cwd())
    yield _torch()
    for engine in PARTS:
        yield _engine(engine)
    yield from map(_evaluator, EVALUATORS)
    yield _slurm()
    yield _shared_memory()
    yield _datasets()


def version(distribution: str) -> str | None:
    """The installed version, None without one."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _working_folder(folder: Path) -> Finding:
    if found := list(in_the_way(folder)):
        detail = (
            f"`python -m harness.run` here would import {', '.join(map(str, found))} instead of bsgal-bench's packages"
        )
        return Finding("working folder", "broken", detail, "rename them; the command `harness` is not affected")
    return Finding("working folder", "ok", f"no file in {folder} hides bsgal-bench's packages")


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("torch", "missing", "the package is not installed", "pip install bsgal-bench")
    import torch

    detail = f"{torch.__version__}, {os.cpu_count()} CPU cores, built {_built_for(torch.version.cuda)}"
    if not torch.cuda.is_available():
        hint = "nvidia-smi finds a GPU, but torch does not" if shutil.which("nvidia-smi") else "no GPU"
        return Finding("torch", "ok", f"{detail}; {hint}: launcher.gpus=0 trains on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("torch", "ok", f"{detail}; {len(names)} GPUs: {', '.join(sorted(set(names)))}")


def _built_for(cuda: str | None) -> str:
    return f"for CUDA {cuda}" if cuda else "for the CPU"


def _engine(name: str) -> Finding:
    from harness.engine import ENGINES, capabilities

    subject = f"engine={name}"
    package, command = ENGINES[name].package, ENGINES[name].install
    versions = ", ".join(f"{each} {found}" for each in PARTS[name] if (found := version(each)))
    if importlib.util.find_spec(package) is None:
        return Finding(subject, "missing", f"the package {package} is not installed", f"{command}")
    try:
        able = ", ".join(sorted(need.value for need in capabilities(name)))
    except (ImportError, AttributeError, RuntimeError, AssertionError, UserError) as error:
        return Finding(subject, "broken", f"{versions}; importing it fails: {first_line(error)}", f"{command}")
    return Finding(subject, "ok", f"{versions}; can do {able}")


def _evaluator(name: str) -> Finding:
    found = version(name)
    if found is None:
        detail = "not installed; only needed to compare with other frameworks' evaluators"
        return Finding(f"package {name}", "missing", detail, f"pip install {name}")
    return Finding(f"package {name}", "ok", f"{found}, to compare with other frameworks' evaluators")


def _slurm() -> Finding:
    missing = [command for command in SLURM if shutil.which(command) is None]
    if missing:
        detail = f"{', '.join(missing)} not on PATH; launcher=local runs on this machine"
        return Finding("SLURM", "missing", detail, "for launcher=slurm, start harness on a login node of a cluster")
    try:
        done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10)
        pinged = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("SLURM", "broken", f"its commands do not answer: {error}")
    first = (pinged.stdout + pinged.stderr).strip().splitlines()[:1]
    answer = first[0] if first else "no answer"
    if pinged.returncode or "UP" not in pinged.stdout:
        return Finding("SLURM", "broken", f"its commands are installed, but no controller answers: {answer}")
    return Finding("SLURM", "ok", f"{done.stdout.strip()}; {answer}")


def _shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Loader workers send batches through it; containers have 64 MiB by default."""
    if not folder.is_dir():
        return Finding("shared memory", "ok", f"no {folder} on this system, which has other shared memory")
    free = shutil.disk_usage(folder).free / 2**30
    if free < LEAST_SHARED_GIB:
        detail = f"{folder} has {free:.2f} GiB free; loader workers are killed by a bus error when it is full"
        return Finding("shared memory", "broken", detail, "docker run --shm-size=16g, or train with data.workers=0")
    return Finding("shared memory", "ok", f"{folder} has {free:.0f} GiB free")


def _datasets() -> Finding:
    folder = cache_folder()
    made = folder / "mini"
    place = folder if folder.exists() else next((p for p in folder.parents if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free / 2**30
    state = "holds the embedded dataset" if made.is_dir() else "is empty; data=mini is created there on first use"
    if not os.access(place, os.W_OK):
        return Finding("cache", "broken", f"{folder} cannot be written", "set BSGAL_BENCH_CACHE to a folder that can")
    return Finding(
        "cache",
        "ok",
        f"{folder} {state}; {free:.0f} GiB free",
        "for another dataset: harness data check data=lvis_v1 data.root=FOLDER",
    )
