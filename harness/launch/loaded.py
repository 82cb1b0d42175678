"""What runs on this machine are forked from: a process that has loaded what a run needs whatever its configuration.

Imports alone: a process that has computed something, or asked for a GPU, could not be forked.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys
from pathlib import Path

import pyarrow.dataset  # noqa: F401  which reading some rows of a Parquet file asks for
import torch._dynamo  # noqa: F401  which optimisers ask for
import torch._inductor.config as _inductor  # noqa: F401  which deterministic settings ask for

import backbones.resnet  # noqa: F401  with timm
import harness.engine.native
import harness.run.run  # noqa: F401
from harness.compose import compose
from harness.launch import job
from harness.launch.forks import Request
from harness.run.provenance import LOCAL_JOB, sources


def serve(folder: str) -> None:
    """Forks a process for each rank of a run, for every `Request` on stdin until its end, and prints their numbers.

    In those it returns when their run has ended. folder: for their logs, which bear the number of rank 0.
    """
    compose([])  # imports every method, and Hydra's plugins
    sources()  # as they are now: they may be edited while runs are started
    gc.collect()
    gc.freeze()  # nothing of it is garbage, and looking for some would copy its memory into every run
    while (request := _read()) is not None:
        _reap()  # those of earlier requests; the launcher has not seen this one's yet
        numbers: list[int] = []
        for rank in range(request.run.resources["ranks"]):
            if (number := os.fork()) == 0:
                _execute(request, rank, numbers[0] if numbers else os.getpid(), Path(folder))
                return
            numbers.append(number)
        print(*numbers, flush=True)
    _reap()  # so that their time counts among the launcher's


def _read() -> Request | None:
    try:
        request: Request = pickle.load(sys.stdin.buffer)
    except EOFError:
        return None
    return request


def _execute(request: Request, rank: int, number: int, folder: Path) -> None:
    streams = (Path(os.devnull), folder / f"{number}_{rank}_log.out", folder / f"{number}_{rank}_log.err")
    for stream, path in enumerate(streams):
        with path.open("ab") as file:
            os.dup2(file.fileno(), stream)
    os.environ |= {LOCAL_JOB: str(number), "CUDA_VISIBLE_DEVICES": ",".join(map(str, request.gpus))}
    ranks = request.run.resources["ranks"]
    if ranks > 1:  # as torchrun describes them
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + number % 40000)}
    job.start_here(request.run, request.runs_dir, str(number))


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
