"""Two real processes over gloo: one order of samples, one update, agreement on when to stop.

The measure is one process that computes the ranks' half batches apart, shares CenterNet's mean count of positives,
and averages.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.compose import compose
from harness.data.sample import Batch
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.launch.forks import Forks, is_alive
from harness.record.record import Status, read_records
from harness.run.run import execute
from harness.training import checkpoint
from harness.training.distributed import Ranks, join
from harness.training.flat_gradient import FlatGradient
from harness.training.loop import _decisions
from harness.training.schedule import learning_rate
from harness.training.step import StepPosition, TrainingStep
from methods.contract import LossTable, Scope
from tests.forked import run_forked, start_forked, wait_for
from tests.small_training import TINY, SmallRun, raw, setup

ROOT = Path(__file__).parents[2]
STEPS = 6
SHORT = [
    *TINY,
    "data.pool=half_bad",
    "schedule.global_batch=4",
    f"schedule.iterations={STEPS}",
    "schedule.ema=0.9",
]
# At this threshold the ranks disagree on some step: one accepts and makes a pass less than the other.
OVERRIDES = [
    *SHORT,
    "method=bsgal",
    "method.tau=0.12",
    "evaluation.limit=60",
    "evaluation.every=4",
    "schedule.archive=[4]",
]
MIXED = [
    *SHORT,
    "method=mixed_selection",
    f"method_paths=[{ROOT / 'tests' / 'run' / 'mixed_selection.py'}]",
    "method.max_samples=6",
    "evaluation.limit=2",
]
RUN = [sys.executable, "-m", "harness.run", *OVERRIDES]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def final(runs: Path) -> dict[str, Any]:
    (record,) = read_records(runs)
    assert record.status is Status.complete
    content = checkpoint.load_final(runs / record.run_id / "checkpoint", torch.device("cpu"))
    assert content is not None
    return content


def table(runs: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(next(runs.glob(f"*/{name}.parquet")))


def losses(runs: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in next(runs.glob("*/metrics.jsonl")).read_text().splitlines()]


def assert_same_figures(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    (first,), (second,) = read_records(one), read_records(other)
    assert first.metrics == second.metrics
    assert [point["iteration"] for point in first.curve] == [4, STEPS]
    assert first.curve == second.curve


@pytest.fixture(scope="module")
def two_ranks(mini_root: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("two")
    run_forked(forks, *OVERRIDES, f"runs_dir={runs}")
    return runs


class Measure:
    """The same training in this process."""

    def __init__(self, overrides: Sequence[str] = OVERRIDES) -> None:
        torch.set_num_threads(1)
        self.config = compose(overrides).config
        made = [setup(self.config, rank, 2) for rank in range(2)]
        self.engine: Engine = made[0][0]
        self.methods = [method for _, method, _ in made]
        self.batches = [list(batches(0)) for _, _, batches in made]
        parameters = self.engine.parameters(Scope.all)
        self.flat = FlatGradient(parameters)
        self.flat.attach()
        decay = self.config.schedule.weight_decay
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=decay, foreach=True)
        self.average = [parameter.detach().clone() for parameter in parameters]
        self.losses: list[float] = []
        self.decisions: list[dict[str, Any]] = []

    def run(self) -> None:
        for iteration, batches in enumerate(zip(*self.batches, strict=True)):
            before = self._statistics()
            tables, after = [], []
            for rank, batch in enumerate(batches):
                self._overwrite(before)
                tables.append(self._table(iteration, rank, batch))
                after.append(self._statistics())
            self._overwrite([_mean(parts) for parts in zip(*after, strict=True)])
            self._update(iteration, tables)

    def _table(self, iteration: int, rank: int, batch: Batch) -> LossTable:
        step = TrainingStep(self.engine, batch, StepPosition(0, iteration, STEPS), Ranks(rank))
        selection = self.methods[rank].select(step)
        self.decisions += _decisions(iteration, rank, batch, selection)
        return step.trained_table(selection)

    def _update(self, iteration: int, tables: list[LossTable]) -> None:
        shared = {
            name: torch.stack([t.losses[name].count.sum().float() for t in tables]).mean()
            for name, loss in tables[0].losses.items()
            if loss.across_ranks
        }
        assert shared
        gradients, totals = [], []
        for own in tables:
            total = torch.stack([own.batch(name, shared.get(name)) for name in own.losses]).sum()
            totals.append(float(total.detach()))
            gradients.append(self.flat.backward(total).clone())
        self.losses.append(float(np.mean(totals)))
        self.flat.buffer.copy_((gradients[0] + gradients[1]) / 2).clamp_(-1, 1)
        for average, parameter in zip(self.average, self.flat.parameters, strict=True):
            average.lerp_(parameter.detach(), 0.1)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.schedule, iteration)
        self.optimizer.step()

    def _statistics(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self.engine.module.buffers()]

    def _overwrite(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self.engine.module.buffers(), values, strict=True):
            buffer.data.copy_(value)


def _mean(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(parts).mean(0) if parts[0].is_floating_point() else parts[0]


@pytest.fixture(scope="module")
def measure(mini_root: Path) -> Measure:
    made = Measure()
    made.run()
    return made


def test_ranks_take_the_samples_of_one_process(measure: Measure) -> None:
    """Each with its half of every global batch, and equal samples."""
    alone = compose([*OVERRIDES, "schedule.batch_per_rank=4"]).config
    _, _, batches = setup(alone)
    for iteration, batch in enumerate(batches(0)):
        halves = [sample for rank in range(2) for sample in measure.batches[rank][iteration].samples]
        assert [sample.position for sample in halves] == [sample.position for sample in batch.samples]
        for half, whole in zip(halves, batch.samples, strict=True):
            assert half.image_index == whole.image_index
            assert torch.equal(half.original.image, whole.original.image)


def test_two_ranks_train_as_one_process_that_averages(two_ranks: Path, measure: Measure) -> None:
    assert_trained_alike(two_ranks, measure)


@pytest.mark.slow
def test_ranks_leave_out_and_weight_instances_of_their_own(mini_root: Path, forks: Forks, tmp_path: Path) -> None:
    measure = Measure(MIXED)
    measure.run()
    run_forked(forks, *MIXED, f"runs_dir={tmp_path}")
    assert_trained_alike(tmp_path, measure)
    keys = ["iteration", "rank", "image"]
    found, expected = (
        frame.sort_values(keys).reset_index(drop=True)
        for frame in (table(tmp_path, "decisions"), pd.DataFrame(measure.decisions))
    )
    told = [*keys, "accepted", "decided"]
    pd.testing.assert_frame_equal(found[told], expected[told], check_dtype=False)
    found, expected = found[found.decided], expected[expected.decided]
    for name in ("pool_rows", "kept"):
        assert found[name].map(list).tolist() == expected[name].tolist()
    for name in ("contributions", "weights"):
        np.testing.assert_allclose(*(frame[name].explode().astype(float) for frame in (found, expected)), rtol=1e-4)
    kept = found.kept.explode().astype(bool)
    assert 0 < kept.mean() < 1
    assert set(found["rank"]) == {0, 1}


def assert_trained_alike(two_ranks: Path, measure: Measure) -> None:
    np.testing.assert_allclose(losses(two_ranks), measure.losses, rtol=1e-6)
    content = final(two_ranks)
    for (name, parameter), average in zip(measure.engine.module.named_parameters(), measure.average, strict=True):
        torch.testing.assert_close(content["model"][name], parameter.detach(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(content["model_ema"][name], average, rtol=1e-5, atol=1e-7)
    for name, buffer in measure.engine.module.state_dict().items():
        if "running_" in name:
            torch.testing.assert_close(content["model"][name], buffer, rtol=1e-5, atol=1e-7)


def test_ranks_decide_for_themselves_and_one_that_rejects_holds_up_nobody(two_ranks: Path, measure: Measure) -> None:
    found = table(two_ranks, "decisions")
    expected = pd.DataFrame(measure.decisions)
    keys = ["iteration", "rank", "image"]
    found, expected = (frame.sort_values(keys).reset_index(drop=True) for frame in (found, expected))
    told = [*keys, "accepted", "decided"]
    pd.testing.assert_frame_equal(found[told], expected[told], check_dtype=False)
    decided = found[found.decided]
    np.testing.assert_allclose(decided.contribution, expected[expected.decided].contribution.astype(float), rtol=1e-4)
    by_rank = decided.groupby(["iteration", "rank"]).accepted.first().unstack()
    assert (by_rank[0] != by_rank[1]).any(), "no step on which one rank accepts and the other rejects"


def test_a_signal_to_one_rank_stops_all_and_the_run_resumes_bit_for_bit(
    two_ranks: Path, forks: Forks, tmp_path: Path
) -> None:
    """The ranks are tasks of SLURM's here, and of launcher=local when the run goes on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in range(2):
        tasks = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        tasks |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_NUM_NODES": "1"}
        tasks |= {"SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}
        own = {**environment(), **tasks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(subprocess.Popen([*RUN, f"runs_dir={tmp_path}"], env=own, stderr=subprocess.PIPE, text=True))
    try:
        deadline = time.monotonic() + 200
        while not [p for p in tmp_path.glob("bsgal*/metrics.jsonl") if p.read_text().count("\n") >= 2]:
            assert time.monotonic() < deadline, "no step in time"
            assert all(rank.poll() is None for rank in ranks), ranks[0].communicate()[1]
            time.sleep(0.01)
        ranks[1].send_signal(signal.SIGTERM)
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [rank.returncode for rank in ranks] == [75, 75], said
    (record,) = read_records(tmp_path)
    assert record.status is Status.interrupted
    (saved,) = (path for path in (tmp_path / record.run_id / "checkpoint").iterdir() if path.is_dir())
    assert 2 <= int(saved.name) < STEPS
    assert sorted(path.name for path in saved.iterdir()) == ["rank0.pt", "rank1.pt", "shared.pt"]

    run_forked(forks, *OVERRIDES, f"runs_dir={tmp_path}")
    calm, resumed = final(two_ranks), final(tmp_path)
    assert f"resuming from step {int(saved.name)}" in (tmp_path / record.run_id / "log.txt").read_text()
    for part in ("model", "model_ema"):
        assert all(torch.equal(calm[part][name], resumed[part][name]) for name in calm[part])
    pd.testing.assert_frame_equal(table(two_ranks, "decisions"), table(tmp_path, "decisions"), check_exact=True)
    assert_same_figures(two_ranks, tmp_path)


BEGUN = {
    "training": "bsgal*/metrics.jsonl",
    "evaluation on the way": "bsgal*/evaluation/*/*.parquet",
    "evaluation": "bsgal*/evaluation/*.parquet",
}


def has_begun(during: str, runs: Path) -> bool:
    return any(path.stat().st_size for path in runs.glob(BEGUN[during]))


@pytest.mark.parametrize("during", ["training", *(pytest.param(d, marks=pytest.mark.slow) for d in list(BEGUN)[1:])])
def test_sigterm_to_the_group_of_torchrun_stops_all_and_the_run_resumes_bit_for_bit(
    during: str, two_ranks: Path, forks: Forks, tmp_path: Path
) -> None:
    """With loader workers, which hear the signal too. torchrun gives its ranks' status as its own 1."""
    further = ["data.workers=2", "evaluation.save_minutes=0"]
    command = [*TORCHRUN, "-m", "harness.run", *OVERRIDES, f"runs_dir={tmp_path}", *further]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not has_begun(during, tmp_path):
        assert time.monotonic() < deadline, "nothing to see in time"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=200)[1]
    assert process.returncode != 0, said
    assert_goes_on(two_ranks, tmp_path, forks, said)


def test_sigterm_to_all_ranks_while_they_evaluate_loses_nothing(two_ranks: Path, forks: Forks, tmp_path: Path) -> None:
    ranks = start_forked(forks, *OVERRIDES, f"runs_dir={tmp_path}", "data.workers=2", "evaluation.save_minutes=0")
    while not has_begun("evaluation on the way", tmp_path):
        assert all(map(is_alive, ranks))
        time.sleep(0.005)
    for process in [*ranks, *(child for rank in ranks for child in rank.children())]:
        process.terminate()
    wait_for(ranks)
    assert_goes_on(two_ranks, tmp_path, forks, "")


def assert_goes_on(two_ranks: Path, tmp_path: Path, forks: Forks, said: str) -> None:
    """The run was told to stop; started again, it ends as one that nobody disturbs."""
    (record,) = read_records(tmp_path)
    assert record.status is Status.interrupted, (record, said)
    run_forked(forks, *OVERRIDES, f"runs_dir={tmp_path}", "data.workers=2")
    calm, resumed = final(two_ranks), final(tmp_path)
    for part in ("model", "model_ema"):
        assert all(torch.equal(calm[part][name], resumed[part][name]) for name in calm[part])
    pd.testing.assert_frame_equal(table(two_ranks, "decisions"), table(tmp_path, "decisions"), check_exact=True)
    assert_same_figures(two_ranks, tmp_path)


@pytest.mark.parametrize(("world", "expected"), [(None, 2), ("3", 2), ("2", 1)])
def test_another_number_of_processes_is_an_error_that_says_how_many(
    world: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world is not None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=rf"asks for {expected} ranks, but {world or 1} run.*nproc-per-node {expected}"):
        join(expected, use_gpu=False)


def test_one_rank_evaluates_what_two_have_trained_under_the_same_name(two_ranks: Path, tmp_path: Path) -> None:
    shutil.copytree(two_ranks, tmp_path / "runs")
    (before,) = read_records(tmp_path / "runs")
    (tmp_path / "runs" / before.run_id / "record.json").unlink()
    assert execute([*OVERRIDES, f"runs_dir={tmp_path / 'runs'}"]).status is Status.complete
    (after,) = read_records(tmp_path / "runs")
    assert (after.run_id, after.metrics) == (before.run_id, before.metrics)

    archived = next(two_ranks.glob("*/checkpoint/000000004.pt"))
    outcome = execute([*OVERRIDES, f"runs_dir={tmp_path / 'archived'}", "train=false", f"weights={archived}"])
    assert outcome.status is Status.complete
    (alone,) = read_records(tmp_path / "archived")
    assert before.curve[0] == {"iteration": 4, **alone.metrics}


# What has no decisions to make overlaps its backward pass with the averaging, and may take a batch in parts.
PLAIN = [*TINY, "method=xpaste", "data.pool=half_bad", "schedule.global_batch=4", "schedule.iterations=4"]


@pytest.mark.usefixtures("mini_root")
def test_parts_of_a_batch_in_turn_train_as_so_many_ranks(forks: Forks, tmp_path: Path) -> None:
    run_forked(forks, *PLAIN, "schedule.ema=0.9", f"runs_dir={tmp_path}")
    (record,) = read_records(tmp_path)
    ranks = checkpoint.load_final(tmp_path / record.run_id / "checkpoint", torch.device("cpu"))
    assert ranks is not None
    alone = SmallRun([*PLAIN, "schedule.ema=0.9", "schedule.accumulate=2"], tmp_path / "alone")
    start = raw(alone.engine)
    assert alone.run()
    parts = alone.trainer.final_weights()
    for kind in ("model", "model_ema"):
        for name, value in ranks[kind].items():
            torch.testing.assert_close(parts[kind][name], value, rtol=1e-4, atol=1e-6)
    assert any("running_" in name for name in start)
    assert not any(torch.equal(start[name], value) for name, value in parts["model"].items() if "running_" in name)
    both = [(folder / "metrics.jsonl").read_text() for folder in (tmp_path / record.run_id, tmp_path / "alone")]
    one, other = ([json.loads(line) for line in text.splitlines()] for text in both)
    np.testing.assert_allclose([line["loss"] for line in one], [line["loss"] for line in other], rtol=1e-5)
    assert {line["memory_rank"] for line in one} <= {0.0, 1.0}


def test_parts_are_for_methods_that_decide_nothing() -> None:
    with pytest.raises(UserError, match=r"schedule\.accumulate=2 is only for methods that decide nothing: what bsgal"):
        compose([*OVERRIDES, "schedule.accumulate=2"])
    assert compose([*PLAIN, "schedule.accumulate=2"]).config.schedule.ranks == 1
    with pytest.raises(UserError, match=r"not a multiple of schedule\.batch_per_rank=2 times schedule\.accumulate=3"):
        compose([*PLAIN, "schedule.accumulate=3"])


@pytest.mark.parametrize(
    ("rank", "world"), [("a", "2"), ("-1", "2"), ("", "2"), ("0", "two"), ("2", "2"), ("0", "9" * 5000)]
)
def test_ranks_that_are_no_numbers_are_named(rank: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(UserError, match=r"RANK|WORLD_SIZE"):
        join(2, use_gpu=False)
