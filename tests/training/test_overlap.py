"""Buckets of a gradient leave while the backward pass is under way, in one order, and come back as the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.training.distributed import Ranks
from harness.training.flat_gradient import FlatGradient
from harness.training.overlap import OverlappedAverage
from tests.run.lives import context


def _rank(rank: int, folder: Path) -> None:
    """Each rank's loss leaves out another layer, so that their gradients are complete in another order."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    layers = [nn.Linear(30, 30) for _ in range(6)]
    flat = FlatGradient([parameter for layer in layers for parameter in layer.parameters()])
    flat.attach()
    average = OverlappedAverage(flat, Ranks(rank, 2, rank), bucket_bytes=4 * 1500)
    left_when: list[int] = []
    reached = torch.full((4, 30), rank + 1.0, requires_grad=True)
    reached.register_hook(lambda grad: left_when.append(len(average._sent)))

    def loss() -> Tensor:
        value = reached
        for place, layer in enumerate(layers):
            value = value if place == (1, 5)[rank] else torch.tanh(layer(value))
        return value.square().sum()

    alone = flat.backward(loss()).clone()
    left_when.clear()
    torch.save(alone, folder / f"alone{rank}.pt")
    flat.buffer.zero_()
    with average.during():
        torch.autograd.backward(loss(), inputs=[*flat.parameters, reached])
    torch.save({"mean": flat.buffer, "left": left_when, "buckets": len(average._buckets)}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_buckets_leave_during_the_backward_pass_and_hold_the_mean(tmp_path: Path) -> None:
    ranks = [context.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    found: list[dict[str, Any]] = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = [torch.load(tmp_path / f"alone{rank}.pt", weights_only=True) for rank in range(2)]
    assert not torch.equal(alone[0], alone[1])
    for each in found:
        assert torch.equal(each["mean"], (alone[0] + alone[1]) / 2)
    assert found[0]["buckets"] == 6
    assert found[0]["left"] == [3], "before the pass is through, the last layers' gradients are on their way"
    assert found[1]["left"] == [0], "a rank that does not reach the last layer sends it when the pass has ended"


@pytest.mark.parametrize("bytes_", [1, 4 * 100, 10**9])
def test_buckets_cover_the_gradient_once(bytes_: int) -> None:
    from harness.training.overlap import _buckets

    flat = FlatGradient([nn.Parameter(torch.zeros(size)) for size in (7, 90, 20, 300, 1)])
    for bucket in _buckets(flat, bytes_):
        bucket.part.add_(1)
        assert bucket.part.numel() == sum(parameter.numel() for parameter in bucket.parameters)
    assert torch.equal(flat.buffer, torch.ones(flat.length))
