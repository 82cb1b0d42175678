"""The ranks of a run: torchrun's or SLURM's environment, and the few collectives that training needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from harness.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. Every method is a no-op or the identity with one rank."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value.div_(self.world)

    def average_(self, value: Tensor) -> Tensor:
        """Like `average`, in place."""
        if self.world > 1:
            dist.all_reduce(value)
            value.div_(self.world)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag holds on any rank."""
        if self.world == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable value, in rank order, on rank 0; an empty list elsewhere."""
        if self.world == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(value, gathered)
        return gathered or []

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable value."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


def join(expected: int, use_gpu: bool) -> Ranks:
    """Joins the process group that torchrun (RANK, WORLD_SIZE, ...) or SLURM tasks (SLURM_PROCID, ...) describe.

    Raises UserError when the number of processes is not the one that the configuration asks for.
    """
    environment = _torchrun() or _slurm() or Ranks()
    if environment.world != expected:
        raise UserError(
            f"schedule.global_batch / schedule.batch_per_rank asks for {expected} ranks, but {environment.world} run: "
            f"start them with `torchrun --nproc-per-node {expected} -m harness.run ...` or launcher.gpus/launcher.nodes"
        )
    if environment.world > 1:
        if use_gpu:
            torch.cuda.set_device(environment.local_rank)
        dist.init_process_group("nccl" if use_gpu else "gloo", rank=environment.rank, world_size=environment.world)
    return environment


def _torchrun() -> Ranks | None:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0)))


def _slurm() -> Ranks | None:
    # A batch script has SLURM_PROCID too; its commands are ranks only where srun starts them, as a step.
    if int(os.environ.get("SLURM_NTASKS", 1)) == 1 or "SLURM_STEP_ID" not in os.environ:
        return None
    # Not submitit.JobEnvironment, which knows submitit's own jobs alone: a user's `srun harness run` is as good.
    from submitit.slurm.slurm import SlurmJobEnvironment

    environment = SlurmJobEnvironment()
    os.environ.setdefault("MASTER_ADDR", environment.hostnames[0])
    # Jobs that share a node must not share a port.
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ["SLURM_JOB_ID"]) % 40000))
    return Ranks(environment.global_rank, environment.num_tasks, environment.local_rank)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
