"""The settings of torch that hold for a whole process, made in one place for runs, benchmarks and tests alike."""

from __future__ import annotations

import os

import torch

from harness.config import Determinism, RunConfig
from harness.errors import UserError


def prepare_torch(config: RunConfig) -> None:
    """Sets threads, determinism and the precision of matrix products as a run of this configuration has them.

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
    if strict and on_gpu:
        if config.engine.name != "native":
            raise UserError(f"determinism=strict needs engine=native; {config.engine.name} pools with other operations")
        # Read when cuBLAS is first used. https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
