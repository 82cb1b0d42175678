"""The learning rate by hand, and the papers' schedules number by number."""

import math
from dataclasses import replace

import pytest

from harness.compose import compose
from harness.config import Precision, ScheduleConfig
from harness.errors import UserError
from harness.training.schedule import learning_rate

PAPER = ScheduleConfig(iterations=90000, global_batch=16, batch_per_rank=4, lr=1e-4)

# iterations, global batch, rate, average; from the published BSGAL_R50, BSGAL_SwinL, Xpaste_R50, Xpaste_swinL,
# DiverGen_swinL and Base-C2_L_R5021k_640b64_4x.
PUBLISHED = {
    "paper": (90000, 16, 1e-4, 0.999),
    "paper_swin_l": (180000, 16, 1e-4, 0.999),
    "xpaste_r50": (180000, 64, 1e-4, 0.999),
    "xpaste_swin_l": (180000, 16, 1e-4, 0.999),
    "divergen_swin_l": (180000, 16, 1e-4, 0.999),
    "base_r50": (90000, 64, 2e-4, None),
}


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [
        (0, 1e-8),  # the warm-up's factor
        (5000, 1e-4 * (0.5 * 1e-4 + 0.5 * 0.9698463103929542)),  # half way to the cosine at a ninth, (1 + cos 20°) / 2
        (10000, 9.698463103929542e-5),
        (45000, 5e-5),
        (60000, 2.5e-5),
        (90000, 0.0),
    ],
)
def test_the_rate_is_detectron2s_warm_up_over_a_cosine(iteration: int, expected: float) -> None:
    assert learning_rate(PAPER, iteration) == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_a_warm_up_longer_than_the_schedule_is_cut() -> None:
    short = replace(PAPER, iterations=100, warmup_iterations=1000)
    rates = [learning_rate(short, i) for i in range(100)]
    assert max(rates) < PAPER.lr
    assert all(math.isfinite(rate) for rate in rates)


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_of_the_papers(name: str) -> None:
    schedule = compose([f"schedule={name}"]).config.schedule
    found = (schedule.iterations, schedule.global_batch, schedule.lr, schedule.ema)
    assert found == PUBLISHED[name]
    common = (schedule.weight_decay, schedule.warmup_iterations, schedule.warmup_factor, schedule.clip_value)
    assert common == (1e-4, 10000, 1e-4, 1.0)
    assert schedule.precision is Precision.fp16
    assert schedule.activation_checkpointing == ("swin_l" in name)


def test_batches_that_do_not_divide_are_named() -> None:
    with pytest.raises(UserError, match=r"global_batch=10 .*batch_per_rank=4"):
        compose(["schedule.global_batch=10", "schedule.batch_per_rank=4"])
