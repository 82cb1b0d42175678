"""What options may be: numbers that nobody means are refused where they are given, by their name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MOST = 2**31 - 1  # of an integer without a bound of its own: what C code takes
ABOVE_ZERO = math.ulp(0.0)

# By dotted key: the least and the most. Floats elsewhere are finite, integers at most MOST either way.
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "threads": (1, 4096),
    "data.num_classes": (1, 10**6),
    "data.size": (1, 2**14),
    "data.scale_min": (ABOVE_ZERO, 100),
    "data.scale_max": (ABOVE_ZERO, 100),
    "data.test_short": (1, 2**14),
    "data.test_long": (1, 2**14),
    "data.repeat_threshold": (0, 1),
    "data.workers": (0, 1024),
    "data.paste.jitter": (0, 1),
    "detector.extra_levels": (0, 8),
    "detector.channels": (1, 2**16),
    "detector.head_convs": (0, 64),
    "detector.head_groups": (1, 2**16),
    "detector.heatmap_overlap": (0, 1),
    "detector.heatmap_min_radius": (0, MOST),
    "detector.pre_nms_train": (1, MOST),
    "detector.post_nms_train": (1, MOST),
    "detector.pre_nms_test": (1, MOST),
    "detector.post_nms_test": (1, MOST),
    "detector.proposal_nms": (0, 1),
    "detector.proposal_threshold": (0, 1),
    "detector.proposals_per_image": (1, MOST),
    "detector.positive_fraction": (0, 1),
    "detector.canonical_size": (ABOVE_ZERO, 2**14),
    "detector.box_resolution": (1, 1024),
    "detector.fc_layers": (0, 64),
    "detector.fc_width": (1, 2**20),
    "detector.federated_classes": (1, MOST),
    "detector.mask_convs": (0, 64),
    "detector.mask_channels": (1, 2**16),
    "detector.mask_resolution": (1, 1024),
    "detector.score_threshold": (0, 1),
    "detector.nms": (0, 1),
    "detector.detections": (1, MOST),
    "schedule.iterations": (1, MOST),
    "schedule.global_batch": (1, MOST),
    "schedule.batch_per_rank": (1, MOST),
    "schedule.lr": (0, 1e6),
    "schedule.weight_decay": (0, 1e6),
    "schedule.warmup_iterations": (0, MOST),
    "schedule.warmup_factor": (0, 1),
    "schedule.clip_value": (ABOVE_ZERO, math.inf),
    "schedule.ema": (0, 1),
    "schedule.checkpoint_every": (1, MOST),
    "schedule.checkpoint_minutes": (0, MOST),
    "schedule.keep_checkpoints": (1, MOST),
    "schedule.log_every": (1, MOST),
    "stage.hosts": (1, 10**4),
    "stage.per_category": (1, MOST),
    "stage.references": (1, 10**4),
    "stage.probe_lr": (0, 1e6),
    "stage.size": (1, 2**14),
    "evaluation.batch": (1, MOST),
    "evaluation.limit": (1, MOST),
    "evaluation.save_minutes": (0, MOST),
    "launcher.parallel": (1, 10**6),
    "launcher.jobs": (1, 10**6),
    "launcher.pack": (1, 10**4),
    "launcher.retries": (0, 10**6),
    "launcher.gpus": (0, 10**4),
    "launcher.nodes": (1, 10**6),
    "launcher.cpus": (1, 10**6),
    "launcher.memory_gb": (ABOVE_ZERO, 10**6),
    "launcher.minutes": (1, 10**7),
    "launcher.rank_patience_minutes": (ABOVE_ZERO, 10**7),
    "launcher.signal_seconds": (0, 10**6),
}


def number_fault(key: str, value: Any) -> str:
    """What is wrong with an option's value, such as "at least 1"; empty for a good one, and for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    low, high = BOUNDS.get(key, (-MOST, MOST) if isinstance(value, int) else (-math.inf, math.inf))
    if not math.isfinite(value) and value != BOUNDS.get(key, (0, 0))[1]:
        return "expected a finite number"
    if value < low:
        return "more than 0" if low == ABOVE_ZERO else f"at least {low:g}"
    return "" if value <= high else f"at most {high:g}"


def text_fault(value: Any) -> str:
    """What is wrong with a text that becomes part of a job script or of a table; empty for a good one."""
    if isinstance(value, str) and not value.isprintable():
        return "it must not contain line breaks or control characters"
    return ""


def first_fault(settings: Mapping[str, Any]) -> str:
    """The first number out of its bounds, in words, of settings by dotted key; empty if all are good."""
    for key, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            if fault := number_fault(key, item):
                return f"{key}={item}: {fault}"
    return ""
