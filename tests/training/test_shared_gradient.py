"""Two ranks whose methods hand over gradients: their mean is trained on where each has one, else each goes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from harness.compose import compose
from harness.training.distributed import Ranks
from harness.training.loop import Trainer
from methods.contract import Selection
from tests.run.lives import context
from tests.small_training import TINY, setup

OVERRIDES = [*TINY, "method=bsgal", "data.pool=half_bad", "schedule.global_batch=4", "schedule.iterations=1"]


def _rank(rank: int, having: tuple[bool, bool], folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    config = compose([*OVERRIDES, "schedule.clip_value=null"]).config
    engine, method, batches = setup(config, rank, 2)
    trainer = Trainer(config, engine, method, Ranks(rank, 2, rank), folder)
    own = torch.full_like(trainer.flat.buffer, rank + 1.0)
    selection = Selection(torch.ones(2, dtype=torch.bool), gradient=own if having[rank] else None)
    total = 10.0 * (rank + 1) * torch.cat([p.flatten() for p in trainer.flat.parameters]).sum()
    step = trainer._part(next(batches(0)), rank)
    trainer._backward(total, step.known_gradient(selection), step.overflowed)
    torch.save(trainer.flat.buffer, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize(("having", "mean"), [((True, True), 1.5), ((True, False), 15.0), ((False, False), 15.0)])
def test_gradients_are_averaged_as_they_are_where_every_rank_has_one(
    having: tuple[bool, bool], mean: float, tmp_path: Path
) -> None:
    ranks = [context.Process(target=_rank, args=(rank, having, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, torch.full_like(first, mean))
