"""X-Paste: pasting from a pool that was filtered offline; the base of every method that pastes from the pool."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from methods import filters
from methods.contract import (
    DatasetFacts,
    Draw,
    ImageFacts,
    LossKind,
    Method,
    Need,
    Pool,
    Selection,
    Step,
    uniform_over_categories,
)
from methods.registry import register


class DrawBy(Enum):
    """category: a uniform category, then a uniform instance of it. instance: uniform over instances.

    single_category: one uniform category per image, then uniform instances of it.
    """

    category = "category"
    instance = "instance"
    single_category = "single_category"


@dataclass
class PoolPasting(Method):
    """Pastes instances of the pool by X-Paste's rule.

    max_samples: each image gets a uniform number in 0..max_samples-1. groups: frequency groups (of the letters r, c, f)
    to take instances from. filtered: apply X-Paste's offline filter. strict_filters: fail, rather than warn, if the
    pool lacks the columns of a filter. most_of_each: limit of instances per category, the same ones in every run, taken
    evenly from its prompts if the pool has the column prompt_id.
    """

    pastes = True

    max_samples: int = 20
    draw_by: DrawBy = DrawBy.category
    groups: str = "rcf"
    filtered: bool = False
    clip_threshold: float = 21.0  # percent
    clip_below_best: float = 1.0  # without it, a hard threshold leaves rare categories empty
    area_min: float = 0.05  # share of the instance's own image
    area_max: float = 0.95
    strict_filters: bool = False
    most_of_each: int | None = None

    def validate(self) -> None:
        if self.most_of_each is not None and self.most_of_each < 1:
            raise ValueError(f"most_of_each is {self.most_of_each}, and must be at least 1")
        if self.max_samples < 1:
            raise ValueError(f"max_samples is {self.max_samples}, and must be at least 1")
        if not self.groups or not set(self.groups) <= set("rcf"):
            raise ValueError(f"groups is {self.groups!r}, and must be letters of r, c and f")
        if not 0 <= self.area_min < self.area_max <= 1:
            raise ValueError(f"area_min {self.area_min} and area_max {self.area_max} must rise within 0..1")
        if not (math.isfinite(self.clip_threshold) and self.clip_below_best >= 0):
            raise ValueError(
                f"clip_threshold is {self.clip_threshold} and clip_below_best {self.clip_below_best}: "
                "the one must be a number, the other at least 0, or a category could run empty"
            )
        if not self.filtered:
            self.refuse_if_set("filtered=true", "clip_threshold", "clip_below_best", "area_min", "area_max")

    def refuse_if_set(self, belongs_to: str, *names: str) -> None:
        """Raises ValueError for an option that is set although the others leave it without effect."""
        for name in names:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} belongs to {belongs_to}, and has no effect without it")

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        return self.few_of_each(self.usable(pool, dataset))

    def usable(self, pool: Pool, dataset: DatasetFacts) -> Pool:
        """The rows of the chosen frequency groups that pass the filter, if it is asked for."""
        pool = self.limited_to_groups(pool, dataset)
        return self.clean(pool) if self.filtered else pool

    def few_of_each(self, pool: Pool) -> Pool:
        """`most_of_each` rows of each category, if asked for."""
        if self.most_of_each is None or len(pool) == 0:
            return pool
        prompts = np.zeros(len(pool), np.int64)
        if "prompt_id" in pool.columns:
            prompts = np.unique(pool.column("prompt_id"), return_inverse=True)[1]
        return pool.subset(np.flatnonzero(filters.few_of_each(pool.categories, prompts, self.most_of_each)))

    def limited_to_groups(self, pool: Pool, dataset: DatasetFacts) -> Pool:
        """The pool's rows whose category is of the chosen frequency groups; categories without images count as rare."""
        if set(self.groups) == set("rcf"):
            return pool
        frequency = np.full(max(dataset.num_categories, int(pool.categories.max(initial=0)) + 1), "r")
        frequency[: len(dataset.frequency)] = dataset.frequency
        return pool.subset(np.flatnonzero(np.isin(frequency[pool.categories], list(self.groups))))

    def clean(self, pool: Pool) -> Pool:
        """X-Paste's offline filter: one mask per image, then CLIP score and area fraction."""
        filters.require(pool, ("clip_score", "area_fraction"), "filtered=true", self.strict_filters)
        pool = pool.subset(np.flatnonzero(filters.highest_clip_mask(pool)))
        keep = filters.clip_at_least(pool, self.clip_threshold, self.clip_below_best)
        return pool.subset(np.flatnonzero(keep & filters.area_within(pool, self.area_min, self.area_max)))

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        if self.draw_by is DrawBy.category:
            return uniform_over_categories(pool, rng, self.max_samples)
        count = int(rng.integers(0, self.max_samples))
        if count == 0 or len(pool) == 0:
            return Draw()
        if self.draw_by is DrawBy.instance:
            return Draw(rows=rng.integers(0, len(pool), count))
        return Draw(rows=rng.choice(pool.rows_of(int(rng.choice(pool.present_categories))), count))


@register("xpaste")
@dataclass
class XPaste(PoolPasting):
    """Pastes generated instances that pass an offline filter by CLIP score and area.

    box_loss, mask_loss: whether pasted instances count in the losses of boxes and of masks.
    """

    paper = "X-Paste, arXiv 2212.03863"

    filtered: bool = True
    box_loss: bool = True
    mask_loss: bool = True

    def required(self) -> frozenset[Need]:
        return frozenset({Need.INSTANCE_ATTRIBUTION} if self._without_pasted() else ())

    def decides(self) -> bool:
        return False  # every image keeps what was pasted

    def select(self, step: Step) -> Selection:
        return replace(super().select(step), without_pasted=self._without_pasted())

    def _without_pasted(self) -> frozenset[LossKind]:
        kinds = {LossKind.BOX: self.box_loss, LossKind.MASK: self.mask_loss}
        return frozenset(kind for kind, counts in kinds.items() if not counts)
