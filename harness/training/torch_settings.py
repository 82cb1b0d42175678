"""The settings of torch that hold for a whole process, made in one place for runs, benchmarks and tests alike."""

from __future__ import annotations

import ctypes
import os

import torch

from harness.config import Determinism, RunConfig
from harness.errors import UserError

# Of glibc's malloc.h, and the most bytes that it takes for either.
_M_TRIM_THRESHOLD, _TRIM_BYTES = -1, 2**31 - 1
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 2**25


def prepare_torch(config: RunConfig) -> None:
    """Sets threads, determinism, the precision of matrix products and the use of memory as a run of this configuration
    has them.

    On the CPU every operation is bit-equal from run to run. Raises UserError for `determinism=strict` with an engine
    that has no deterministic RoIAlign.
    """
    on_gpu = config.launcher.gpus > 0
    strict = config.determinism is Determinism.strict
    torch.set_num_threads(config.threads)
    # On a GPU the flag alone is no way to a run that is equal to the bit: see `harness.detector.roi_align`.
    torch.use_deterministic_algorithms(strict or not on_gpu, warn_only=True)
    # The flag also fills fresh memory with NaN, which changes no figure and costs a twelfth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = strict
    torch.backends.cudnn.benchmark = config.schedule.cudnn_benchmark and not strict
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = config.schedule.tf32
    if not on_gpu:
        _keep_freed_memory()
    if strict and on_gpu:
        if config.engine.name != "native":
            raise UserError(f"determinism=strict needs engine=native; {config.engine.name} pools with other operations")
        # Read when cuBLAS is first used. https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _keep_freed_memory() -> None:
    """glibc returns a large tensor's memory to the system as soon as it is freed. The next one's is then handed out
    page by page, which costs a fifteenth of a step on a virtual machine. Other C libraries have no such call."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
