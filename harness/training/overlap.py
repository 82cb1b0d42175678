"""Averaging a gradient over ranks while the backward pass that makes it is still under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from harness.training.distributed import Ranks
from harness.training.flat_gradient import FlatGradient

BUCKET_BYTES = 25 * 2**20  # as in torch's DistributedDataParallel


@dataclass(eq=False)
class _Bucket:
    """A stretch of the flat gradient, and how many of its parameters' gradients are still to come."""

    part: Tensor
    parameters: list[nn.Parameter]
    missing: int = 0


class OverlappedAverage:
    """Sends a flat gradient on its way in buckets, the last parameters' first, each when a backward pass has filled it.

    Buckets leave in one order on every rank, whichever parameters a rank's loss depends on.
    """

    def __init__(self, flat: FlatGradient, ranks: Ranks, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._buffer, self._world = flat.buffer, ranks.world
        self._buckets = _buckets(flat, bucket_bytes) if ranks.world > 1 else []
        self._bucket_of = {parameter: bucket for bucket in self._buckets for parameter in bucket.parameters}
        self._sent: list[dist.Work] = []
        self._on = False
        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    @contextmanager
    def during(self) -> Iterator[None]:
        """A backward pass inside fills the buffer; afterwards it holds the mean over ranks."""
        self._sent.clear()
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._on = True
        try:
            yield
        finally:
            self._on = False
        while len(self._sent) < len(self._buckets):
            self._send()
        for work in self._sent:
            work.wait()
        if self._world > 1:
            self._buffer.div_(self._world)

    def _arrived(self, parameter: Tensor) -> None:
        if self._on:
            self._bucket_of[parameter].missing -= 1  # type: ignore[index]
            while len(self._sent) < len(self._buckets) and not self._buckets[len(self._sent)].missing:
                self._send()

    def _send(self) -> None:
        work = dist.all_reduce(self._buckets[len(self._sent)].part, async_op=True)
        assert work is not None
        self._sent.append(work)


def _buckets(flat: FlatGradient, most: int) -> list[_Bucket]:
    """From the end of the buffer to its beginning, each of `most` bytes or of one larger parameter."""
    found: list[_Bucket] = []
    begin = end = flat.length
    members: list[nn.Parameter] = []
    for parameter in reversed(flat.parameters):
        if members and (end - begin + parameter.numel()) * flat.buffer.element_size() > most:
            found.append(_Bucket(flat.buffer[begin:end], members))
            end, members = begin, []
        members.append(parameter)
        begin -= parameter.numel()
    return [*found, _Bucket(flat.buffer[begin:end], members)]
