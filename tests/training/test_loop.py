"""The training recipe: average, clipping, mixed precision with its scaler, checkpointing, resuming bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from time import sleep

import pandas as pd
import pytest
import torch

from harness.compose import compose
from harness.errors import UserError
from harness.record.decision_log import write_decisions
from harness.training.flat_gradient import FlatGradient
from harness.training.step import StepPosition, TrainingStep
from methods.contract import Scope, ViewKind
from tests.small_training import TIMES, SmallRun, raw

pytestmark = pytest.mark.usefixtures("mini_root")
BSGAL = ["method=bsgal", "data.pool=half_bad"]


def test_the_average_takes_the_weights_before_each_update(tmp_path: Path) -> None:
    run = SmallRun(["schedule.iterations=3", "schedule.ema=0.75"], tmp_path)
    seen: list[dict[str, torch.Tensor]] = []
    run.steps(before=lambda: seen.append(raw(run.engine)))
    final = run.trainer.final_weights()
    for name, _ in run.engine.module.named_parameters():
        by_hand = seen[0][name]
        for weights in seen[1:]:
            by_hand = 0.75 * by_hand + 0.25 * weights[name]
        torch.testing.assert_close(final["model_ema"][name], by_hand, rtol=1e-6, atol=1e-7)
        assert torch.equal(final["model"][name], raw(run.engine)[name])
    moved = max(
        (final["model"][n] - final["model_ema"][n]).abs().max() for n, _ in run.engine.module.named_parameters()
    )
    assert moved > 1e-4


def test_gradients_are_cut_by_value(tmp_path: Path) -> None:
    cut, free = (
        SmallRun(["schedule.iterations=1", f"schedule.clip_value={value}"], tmp_path) for value in ("1e-3", "null")
    )
    cut.steps()
    free.steps()
    assert free.trainer.flat.buffer.abs().max() > 1e-2
    assert torch.equal(cut.trainer.flat.buffer, free.trainer.flat.buffer.clamp(-1e-3, 1e-3))


@pytest.mark.parametrize("backbone", ["resnet18", "swin_mini"])
def test_activation_checkpointing_changes_no_gradient(backbone: str, tmp_path: Path) -> None:
    gradients = []
    for wanted in ("false", "true"):
        overrides = [f"backbone={backbone}", "schedule.iterations=1", "schedule.clip_value=null"]
        run = SmallRun([*overrides, f"schedule.activation_checkpointing={wanted}"], tmp_path)
        run.steps()
        gradients.append(run.trainer.flat.buffer)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_trains_close_to_full_precision(precision: str, near: float, tmp_path: Path) -> None:
    gradients = []
    for kind in ("fp32", precision):
        run = SmallRun([f"schedule.precision={kind}", "schedule.iterations=1", "schedule.clip_value=null"], tmp_path)
        run.steps()
        gradients.append(run.trainer.flat.buffer)
    full, half = gradients
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 1 - near
    assert half.norm() == pytest.approx(float(full.norm()), rel=0.05)


def test_an_overflow_skips_the_step_and_lowers_the_scale(tmp_path: Path) -> None:
    run = SmallRun(["schedule.precision=fp16", "schedule.iterations=1", "schedule.ema=0.9"], tmp_path)
    run.trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = raw(run.engine)
    run.steps()
    parameters = [name for name, _ in run.engine.module.named_parameters()]
    assert all(torch.equal(before[name], raw(run.engine)[name]) for name in parameters)
    assert run.trainer.scaler.get_scale() == 2.0**59


def test_a_methods_overflow_skips_the_step_and_stays_out_of_its_memory(tmp_path: Path) -> None:
    run = SmallRun([*BSGAL, "schedule.precision=fp16", "schedule.iterations=1"], tmp_path)
    run.trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    run.steps()
    state = run.method.state_dict()
    assert state["cache"]["mean"].isfinite().all()
    assert run.trainer.scaler.get_scale() == 2.0**59


def test_a_scaled_gradient_is_the_gradient(tmp_path: Path) -> None:
    """The scale is a power of two, so it cancels exactly, and it is what a method never sees."""
    run = SmallRun(["schedule.iterations=1"], tmp_path)
    (batch,) = run.batches(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = []
    for scale in (None, scaler.scale):
        step = TrainingStep(run.engine, batch, StepPosition(0, 0, 1), run.trainer.ranks, scale)
        found.append(step.gradient(step.losses(ViewKind.ORIGINAL, grad=True).total(), keep_graph=False))
        assert not step.overflowed
    assert torch.equal(*found)
    own = FlatGradient(run.engine.parameters(Scope.all))
    assert len(found[0]) == own.length


@pytest.mark.parametrize("overrides", [[], [*BSGAL, "schedule.precision=fp16", "schedule.ema=0.9"]])
def test_training_that_was_stopped_resumes_bit_for_bit(overrides: list[str], tmp_path: Path) -> None:
    overrides = [*overrides, "schedule.iterations=4"]
    calm = SmallRun(overrides, tmp_path / "calm")
    assert calm.run()
    stopped = SmallRun(overrides, tmp_path / "stopped", stop_after=2)
    assert not stopped.run()
    resumed = SmallRun(overrides, tmp_path / "stopped")
    torch.rand(3)
    assert resumed.trainer.resume()
    assert resumed.trainer.iteration == 2
    assert resumed.run()

    _assert_equal(calm.trainer.final_weights(), resumed.trainer.final_weights())
    for part in ("optimizer", "scaler", "method"):
        _assert_equal(getattr(calm.trainer, part).state_dict(), getattr(resumed.trainer, part).state_dict())
    for trainer in (calm.trainer, resumed.trainer):
        trainer.decisions.save()
        write_decisions(trainer.folder, 1, None)
    rows = [pd.read_parquet(tmp_path / name / "decisions.parquet") for name in ("calm", "stopped")]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    assert len(rows[0]) > 0 or not resumed.method.decides()
    logged = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("calm", "stopped")]
    first, second = ([{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines] for lines in logged)
    assert first == second
    assert [line["iteration"] for line in first] == [1, 2, 3, 4]


def test_the_last_few_checkpoints_stay(tmp_path: Path) -> None:
    run = SmallRun(["schedule.iterations=5", "schedule.checkpoint_every=1", "schedule.keep_checkpoints=3"], tmp_path)
    assert run.run()
    assert sorted(p.name for p in (tmp_path / "checkpoint").iterdir()) == ["000000002", "000000003", "000000004"]


def test_checkpoints_also_come_by_the_clock(tmp_path: Path) -> None:
    run = SmallRun(["schedule.iterations=2", "schedule.checkpoint_minutes=0"], tmp_path)
    assert run.run()
    assert [p.name for p in (tmp_path / "checkpoint").iterdir()] == ["000000001"]


def test_metrics_tell_the_recent_pace_and_what_was_waited_for(tmp_path: Path) -> None:
    run = SmallRun(["schedule.iterations=3"], tmp_path)
    slow = (sleep(0.4) or batch for batch in run.batches(0))
    assert run.trainer.run(slow, lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["recent_steps_per_second"] < 1 / 0.4 for line in lines)
    assert all(0.05 < line["waiting"] < 1 for line in lines)
    assert [line["eta_seconds"] > 0 for line in lines] == [True, True, False]


def test_the_steps_that_were_asked_for_are_traced(tmp_path: Path) -> None:
    run = SmallRun(["schedule.iterations=3", "schedule.profile=2:3"], tmp_path)
    assert run.run()
    trace = json.loads((tmp_path / "profile" / "rank0.json").read_text())
    steps = {event["name"] for event in trace["traceEvents"] if event["name"].startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#1", "ProfilerStep#2"}  # counted from 0
    with pytest.raises(UserError, match=r"schedule.profile: 5:2 is not the first and the last step"):
        compose(["schedule.profile='5:2'"])


def _assert_equal(first: object, second: object) -> None:
    if isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys()
        for key in first:
            _assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple)
        for one, other in zip(first, second, strict=True):
            _assert_equal(one, other)
    elif isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor)
        assert torch.equal(first, second)
    else:
        assert first == second
