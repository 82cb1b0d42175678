"""The configuration of a run: dataclass schemas of the Hydra groups.

Each group's options are YAML files in `harness/conf/<group>`; the groups `method` and `backbone` come from their
registries. A field whose value equals its default is left out of a run's identity, so adding one renames nothing;
a default that changes makes the records stale that were made with the old one (`harness.run.provenance`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf


def cache_folder() -> Path:
    """Where the embedded dataset and what is remembered of files are kept.

    BSGAL_BENCH_CACHE names the folder; without it, it is `bsgal-bench` in XDG_CACHE_HOME or ~/.cache.
    """
    if chosen := os.environ.get("BSGAL_BENCH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bsgal-bench"


OmegaConf.register_new_resolver("cache_folder", lambda: str(cache_folder()), replace=True)


# Enum members are lower case because OmegaConf takes a member's name from the command line.


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Determinism(Enum):
    """On the CPU, every run is identical bit for bit. native: on a GPU, torch's and torchvision's fastest operations,
    some of which add in any order. strict: deterministic operations there too, at the cost that
    docs/explanation/reproducibility.md names."""

    native = "native"
    strict = "strict"


class RoiAlign(Enum):
    """exact: torchvision's operation. grid: one bilinear sample a bin; faster on the CPU, not equal."""

    exact = "exact"
    grid = "grid"


class Blending(Enum):
    """random: one of the others, drawn for each instance."""

    basic = "basic"
    alpha = "alpha"
    gaussian = "gaussian"
    random = "random"


class MaskTargets(Enum):
    """bitmask: the mask's pixels in the view, cropped. polygon: its polygons drawn in each region's grid; for methods
    that paste nothing, as in the published baselines."""

    bitmask = "bitmask"
    polygon = "polygon"


class Tracker(Enum):
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


class Stage(Enum):
    """What a run does: none trains and evaluates. The others work through the pool with a frozen detector and leave a
    file that other runs read: a score of every instance, or the backbone's features of it."""

    none = "none"
    score = "score"
    embed = "embed"


@dataclass
class PasteConfig:
    """How instances are pasted. Angles in degrees; `jitter` is the strength of the colour jitter, 0 for none."""

    blending: Blending = Blending.basic
    rotation: float = 0.0
    jitter: float = 0.0


@dataclass
class DataConfig:
    """A dataset in the LVIS v1 layout. Paths are relative to `root`; annotation `coco_url`s name the image files."""

    name: str = MISSING
    root: str = MISSING
    train_annotations: str = "lvis/lvis_v1_train.json"
    val_annotations: str = "lvis/lvis_v1_val.json"
    images: str = "coco"
    pool: str | None = None  # a path, or the name of a pool below root/pools
    # How large pasted instances are, by category: `lvis_v1` for the published figures, the path of a JSON like them, or
    # null to measure them in the annotations.
    area_statistics: str | None = None
    num_classes: int | None = None  # 1453 with DiverGen's extra categories; null is the dataset's own number
    # Training view: scale jitter, then a crop to size² (padded where the image is smaller), then a flip.
    size: int = 640
    scale_min: float = 0.1
    scale_max: float = 2.0
    flip: bool = True
    # Test view: short side and longest side.
    test_short: int = 800
    test_long: int = 1333
    repeat_threshold: float = 0.001  # repeat factor sampling; 0 switches it off
    aspect_grouping: bool = False  # whether a rank's batch holds only images wider than high, or only others
    mask_targets: MaskTargets = MaskTargets.bitmask
    paste: PasteConfig = field(default_factory=PasteConfig)
    workers: int = 2  # per rank; no part of a run's identity
    cache: str | None = None  # folder of memory-mapped annotations; null puts them beside the annotations


@dataclass
class DetectorConfig:
    """CenterNet2 (arXiv 2103.07461); the defaults are those of BSGAL's configuration."""

    strides: list[int] = field(default_factory=lambda: [8, 16, 32])  # backbone levels that enter the FPN
    extra_levels: int = 2  # by stride-2 convolutions on the last FPN level
    channels: int = 256
    # CenterNet proposal network
    head_convs: int = 4
    head_groups: int = 32  # GroupNorm
    size_ranges: list[list[float]] = field(
        default_factory=lambda: [[0, 80], [64, 160], [128, 320], [256, 640], [512, 1.0e7]]
    )
    heatmap_overlap: float = 0.8
    heatmap_min_radius: float = 4.0
    pre_nms_train: int = 4000
    post_nms_train: int = 2000
    pre_nms_test: int = 1000
    post_nms_test: int = 256
    proposal_nms: float = 0.9
    proposal_threshold: float = 1.0e-4
    # Cascade
    stage_ious: list[float] = field(default_factory=lambda: [0.6, 0.7, 0.8])
    proposals_per_image: int = 512
    positive_fraction: float = 0.25
    roi_align: RoiAlign = RoiAlign.exact
    canonical_size: float = 224.0  # side in pixels of boxes that are pooled from the level of stride 16
    box_resolution: int = 7
    fc_layers: int = 2
    fc_width: int = 1024
    federated: bool = True
    federated_classes: int = 50
    federated_power: float = 0.5
    # How many training images a category beyond the dataset's own counts as; null means as many as the commonest one.
    federated_extra_images: int | None = None
    # Mask head
    mask_convs: int = 4
    mask_channels: int = 256
    mask_resolution: int = 14  # of the RoI; predictions are twice that
    autocast_heads: bool = False  # mixed precision in the heads too; losses are always float32
    # Test
    score_threshold: float = 0.02
    nms: float = 0.5
    detections: int = 300


@dataclass
class EngineConfig:
    name: str = "native"
    config: str | None = None  # a detectron2 or mmdet configuration, by name or path
    overrides: list[str] = field(default_factory=list)


def profile_steps(text: str) -> tuple[int, int]:
    """First and last step, the first being 1, of "10:15". Raises ValueError."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ValueError(f"{text} is not the first and the last step to trace, like 10:15")
    return int(first), int(last)


@dataclass
class ScheduleConfig:
    """Training. Iterations count optimiser steps. A step's global batch comes in parts of batch_per_rank: one a rank,
    or `accumulate` of them in turn on each. So there are global_batch / (batch_per_rank * accumulate) ranks."""

    iterations: int = MISSING
    global_batch: int = MISSING
    batch_per_rank: int = MISSING
    accumulate: int = 1
    lr: float = MISSING
    weight_decay: float = 1.0e-4
    warmup_iterations: int = 10000
    warmup_factor: float = 1.0e-4
    clip_value: float | None = 1.0
    ema: float | None = 0.999
    precision: Precision = Precision.fp32
    activation_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False  # backbone and pyramid by torch.compile in training; engine=native alone
    tf32: bool = False  # on a GPU: matrix products and convolutions of float32 with 10 bits of mantissa
    cudnn_benchmark: bool = False  # on a GPU: convolutions by whichever algorithm is timed to be the fastest
    # The rest is no part of a run's identity
    checkpoint_every: int = 5000
    checkpoint_minutes: float = 30.0
    keep_checkpoints: int = 2
    archive: list[int] = field(default_factory=list)  # iterations whose weights are kept for good
    log_every: int = 20
    profile: str | None = None  # steps, 10:15, whose trace goes to runs/<run_id>/profile

    @property
    def ranks(self) -> int:
        return self.global_batch // (self.batch_per_rank * self.accumulate)


@dataclass
class EvaluationConfig:
    batch: int = 1  # above 1, the padding of images depends on the number of ranks
    save_detections: bool = False
    limit: int | None = None  # evaluate on the first so many images
    mixed: bool = False  # backbone and pyramid in schedule.precision, as in training; engine=native alone
    # The rest is no part of a run's identity
    every: int = 0  # iterations between evaluations during training; 0 for only the last one
    best: str | None = "segm.AP"  # the figure that decides which weights of these evaluations are the best and kept
    save_minutes: float = 5.0  # between saves of an evaluation's progress


@dataclass
class StageConfig:
    """An offline stage, judged by the weights that `init_from` or `weights` names."""

    name: Stage = Stage.none
    # For score: confidence, gradient, loss_difference, or the path of a Python file with your own rule.
    by: str = "confidence"
    hosts: int = 2  # training images that each instance is pasted into
    per_category: int | None = None  # the most instances of each category, drawn at random; null for all
    # For gradient and loss_difference: the number of reference images, how they are chosen (BSGAL's policies), the
    # parameters of the gradient (all, heads, last), and the learning rate of the loss difference's probing step.
    references: int = 8
    reference_policy: str = "drawn_class"
    scope: str = "all"
    probe_lr: float = 1.0e-4
    size: int = 224  # for embed: instances are resized to this side in pixels


@dataclass
class LauncherConfig:
    """Where runs are executed, and with which resources; no part of a run's identity."""

    name: str = "local"  # local or slurm
    parallel: int = 1  # runs at a time (local), or of a job array at a time (slurm)
    jobs: int | None = None  # the most jobs of the whole sweep at a time, waiting ones included (slurm)
    retries: int = 0  # how often `harness sweep --wait` retries a run that lacked memory or time, or lost its node
    pack: int = 1  # runs that share a job's GPUs, cores and memory, side by side (slurm)
    gpus: int = 0  # per node
    nodes: int = 1
    cpus: int = 2  # per task
    memory_gb: float = 8.0  # per node
    minutes: int = 60
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    rank_patience_minutes: float = 30.0  # how long a rank waits for another before it gives up
    signal_seconds: int = 120  # how long before the time limit the run has to save
    setup: list[str] = field(default_factory=list)  # shell lines before the run
    sbatch: dict[str, str] = field(default_factory=dict)  # any further sbatch flags


@dataclass
class RunConfig:
    """One training and evaluation, or one evaluation of given weights."""

    name: str = ""  # the row of a table; if empty, the name of the method, or of the weights that are evaluated
    seed: int = 0
    determinism: Determinism = Determinism.native  # no part of the identity on the CPU
    threads: int = 1  # CPU threads per rank; part of the identity on the CPU, since sums depend on it
    train: bool = True  # false evaluates `weights` without training
    weights: str | None = None  # a checkpoint: trained from its raw weights, evaluated with its moving average
    init_from: str | None = None  # the run_id whose final weights (not EMA) this run starts from
    needed_runs: list[str] = field(default_factory=list)  # run_ids whose records the method reads
    method_paths: list[str] = field(default_factory=list)  # files that register further methods
    runs_dir: str = "runs"
    trackers: list[Tracker] = field(default_factory=list)  # where metrics are sent as well; no part of the identity
    data: DataConfig = field(default_factory=DataConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    backbone: Any = MISSING
    method: Any = MISSING
