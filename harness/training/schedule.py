"""The learning rate over a schedule."""

import math

from harness.config import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, iteration: int) -> float:
    """The rate at a 0-based iteration: a straight line up to the cosine's value at the end of the warm-up, then the
    cosine to zero.

    Source: detectron2's WarmupCosineLR schedule (WarmupParamScheduler over CosineParamScheduler).
    """
    warmup = min(schedule.warmup_iterations, schedule.iterations)
    if iteration >= warmup:
        return schedule.lr * _cosine(iteration / schedule.iterations)
    share = iteration / warmup
    return schedule.lr * ((1 - share) * schedule.warmup_factor + share * _cosine(warmup / schedule.iterations))


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * share))
