"""Feedback from training to draws: the same for any number of workers, after resuming, and on any number of ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.data.policies import Policies
from harness.data.sample import Batch
from harness.errors import UserError
from harness.training.distributed import Ranks
from methods import load_file
from methods.contract import Method
from tests.small_training import TINY, SmallRun

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).with_name("balancing.py")
STEPS = 7
OPTIONS = ["method=balancing", f"method_paths=[{PLUGIN}]", "data.pool=clean", f"schedule.iterations={STEPS}"]
pytestmark = pytest.mark.usefixtures("mini_root")


def drawn(run: SmallRun) -> tuple[dict[int, list[int]], bool]:
    """Which pool rows were drawn at which position, and whether the run came to its end."""
    found: dict[int, list[int]] = {}

    def seen(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            found.update({sample.position: sample.drawn_rows.tolist() for sample in batch.samples})
            yield batch

    trainer = run.trainer
    return found, trainer.run(seen(run.batches(trainer.iteration, trainer.policies)), lambda line: None)


@pytest.fixture(scope="module")
def alone(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[int]]:
    found, ended = drawn(SmallRun(OPTIONS, tmp_path_factory.mktemp("policy")))
    assert ended
    return found


def test_draws_heed_what_was_learnt_lag_steps_before(alone: dict[int, list[int]], tmp_path: Path) -> None:
    deaf = SmallRun(OPTIONS, tmp_path)
    assert deaf.trainer.policies is not None
    deaf.trainer.policies.lag = STEPS
    unheeding, _ = drawn(deaf)
    differing = {position // 2 for position in alone if alone[position] != unheeding[position]}
    assert differing == {3, 4, 5, 6}


def test_draws_are_equal_with_workers(alone: dict[int, list[int]], tmp_path: Path) -> None:
    found, _ = drawn(SmallRun([*OPTIONS, "data.workers=2"], tmp_path))
    assert found == alone


def test_draws_are_equal_after_resuming(alone: dict[int, list[int]], tmp_path: Path) -> None:
    """With workers, who ask for draws ahead as soon as they start."""
    overrides = [*OPTIONS, "data.workers=2"]
    before, ended = drawn(SmallRun(overrides, tmp_path, stop_after=4))
    assert not ended
    again = SmallRun(overrides, tmp_path)
    assert again.trainer.resume()
    after, _ = drawn(again)
    assert {position: rows for position, rows in before.items() if position < 8} | after == alone
    assert min(after) == 8


@pytest.mark.slow
def test_draws_are_equal_on_two_ranks(tmp_path: Path) -> None:
    logs = []
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, per_rank in ([], 4), (torchrun, 2):
        runs = tmp_path / str(per_rank)
        batch = ["schedule.global_batch=4", f"schedule.batch_per_rank={per_rank}", f"runs_dir={runs}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *start, "-m", "harness.run", *TINY, *OPTIONS, *batch]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        log = pd.read_parquet(next(runs.glob("balancing*/decisions.parquet")))
        logs.append(
            {
                (i, rank * 2 + image): list(rows)
                for i, rank, image, rows in log[["iteration", "rank", "image", "pool_rows"]].itertuples(index=False)
            }
        )
    assert logs[0] == logs[1]
    assert len(logs[0]) > 20


class _Unlike(Ranks):
    """The second of two ranks, whose first one has learnt something else."""

    def broadcast(self, value: object) -> object:
        return "something else"


def test_ranks_that_learnt_otherwise_are_an_error(tmp_path: Path) -> None:
    run = SmallRun(OPTIONS, tmp_path)
    run.trainer.ranks = _Unlike()
    with pytest.raises(UserError, match=r"Balancing.policy differs between ranks: compute it only from"):
        run.steps()


def test_workers_that_would_draw_too_far_ahead_are_refused() -> None:
    load_file(PLUGIN)
    policies = Policies(8)
    assert [policies.prefetch(workers) for workers in (0, 1, 3, 4, 7)] == [None, 2, 2, 1, 1]
    with pytest.raises(UserError, match=r"data.workers=8: .*set data.workers=7, or raise `lag`"):
        policies.prefetch(8)
    assert Policies.of(Method()) is None


def test_a_policy_is_a_copy_that_draws_cannot_change() -> None:
    policies, own = Policies(1), np.zeros(2)
    policies.add(0, own)
    own[0] = 1
    heeded = policies.heeded_at(1)
    assert heeded is not None
    assert heeded.tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        heeded[0] = 1
    again = Policies(1)
    again.load_state_dict({k: torch.clone(v) for k, v in policies.state_dict().items()})
    assert again.heeded_at(1).tolist() == [0, 0]  # type: ignore[union-attr]
