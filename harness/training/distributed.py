"""The ranks of a run: torchrun's or SLURM's environment, and the few collectives that training needs.

Tensors go through NCCL on GPUs. What ranks tell one another besides goes through gloo, from processor to processor, so
that it waits for no device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
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
    control: dist.ProcessGroup | None = None  # gloo's, beside NCCL's; None if gloo's is the only one

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

    def most(self, value: float) -> float:
        """The largest of the ranks' values."""
        if self.world == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.control)
        return float(largest)

    def any(self, flag: bool) -> bool:
        """Whether the flag holds on any rank."""
        return bool(self.most(float(flag)))

    def first_on_each_node(self, work: Callable[[], object]) -> None:
        """Does the work on one rank of each node, then on the others, which find it done: reading into a cache.

        Raises what the work raises, on every rank where it does.
        """
        failure: Exception | None = None
        if self.local_rank == 0:
            try:
                work()
            except Exception as error:
                failure = error
        self.barrier()
        if failure is not None:
            raise failure
        if self.local_rank != 0:
            work()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable value, in rank order, on rank 0; an empty list elsewhere."""
        if self.world == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(value, gathered, group=self.control)
        return gathered or []

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable value."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.control)
        return box[0]

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.control)


class Agreement:
    """Flags that ranks learn of one another without waiting: each exchange gives what any rank held in the last one.

    With one rank there is nobody to learn from, and an exchange gives what it is given.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sent: tuple[Tensor, dist.Work] | None = None

    def exchange(self, *flags: bool) -> tuple[bool, ...]:
        """Every rank calls it equally often, with equally many flags."""
        if self._ranks.world == 1:
            return flags
        known = self.finish() or (False,) * len(flags)
        value = torch.tensor(flags, dtype=torch.uint8)
        work = dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        assert work is not None
        self._sent = value, work
        return known

    def finish(self) -> tuple[bool, ...] | None:
        """What the last exchange comes to; None if there was none. After it, nothing is on its way."""
        if self._sent is None:
            return None
        value, work = self._sent
        work.wait()
        self._sent = None
        return tuple(bool(flag) for flag in value)


def join(expected: int | None, use_gpu: bool, patience_minutes: float = 30.0) -> Ranks:
    """Joins the process group that torchrun (RANK, WORLD_SIZE, ...) or SLURM tasks (SLURM_PROCID, ...) describe.

    A rank that waits for another longer than `patience_minutes` ends with an error.
    Raises UserError when the number of processes is not the one that training asks for; None takes any.
    """
    environment = _torchrun() or _slurm() or Ranks()
    if expected is not None and environment.world != expected:
        raise UserError(
            f"schedule.global_batch / schedule.batch_per_rank asks for {expected} ranks, but {environment.world} run: "
            f"start them with `torchrun --nproc-per-node {expected} -m harness.run ...` or launcher.gpus/launcher.nodes"
        )
    if environment.world > 1:
        if use_gpu:
            torch.cuda.set_device(environment.local_rank)
        patience = timedelta(minutes=patience_minutes)
        backend = "nccl" if use_gpu else "gloo"
        dist.init_process_group(backend, rank=environment.rank, world_size=environment.world, timeout=patience)
        if use_gpu:
            return replace(environment, control=dist.new_group(backend="gloo", timeout=patience))
    return environment


def _torchrun() -> Ranks | None:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, world, local = (_count(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank >= world:
        raise UserError(f"the environment has RANK={rank} and WORLD_SIZE={world}: ranks are counted from 0")
    return Ranks(rank, world, local)


def _count(name: str) -> int:
    text = os.environ.get(name, "0")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"the environment has {name}={text!r}: expected a number from 0, as torchrun sets it")
    return int(text)


def _slurm() -> Ranks | None:
    # A batch script has SLURM_PROCID too; its commands are ranks only where srun starts them, as a step.
    if os.environ.get("SLURM_NTASKS", "1") == "1" or "SLURM_STEP_ID" not in os.environ:
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
