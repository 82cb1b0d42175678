"""X-Paste: pasting from a pool that was filtered offline; the base of every method that pastes from the pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from methods import filters
from methods.contract import DatasetFacts, Draw, ImageFacts, Method, Pool, uniform_over_categories
from methods.registry import register


class DrawBy(Enum):
    """category: a uniform category, then a uniform instance of it. instance: uniform over instances.

    single_category: one uniform category an image, then uniform instances of it.
    """

    category = "category"
    instance = "instance"
    single_category = "single_category"


@dataclass
class PoolPasting(Method):
    """Pastes instances of the pool by X-Paste's rule.

    max_samples: an image gets a uniform number in 0..max_samples-1. groups: frequency groups (letters of r, c, f)
    that instances are taken from. filtered: applies X-Paste's offline filter. strict_filters: a filter
    whose columns the pool lacks is an error, not a warning.
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

    def validate(self) -> None:
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
        """Raises ValueError for an option that is set though the others leave it without effect: a mistake."""
        for name in names:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"{name} belongs to {belongs_to}, and has no effect without it")

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        pool = self.limited_to_groups(pool, dataset)
        return self.clean(pool) if self.filtered else pool

    def limited_to_groups(self, pool: Pool, dataset: DatasetFacts) -> Pool:
        """The pool's rows whose category is of the chosen frequency groups; categories without images count as rare."""
        if set(self.groups) == set("rcf"):
            return pool
        frequency = np.full(max(dataset.num_categories, int(pool.categories.max(initial=0)) + 1), "r")
        frequency[: len(dataset.frequency)] = dataset.frequency
        return pool.subset(np.flatnonzero(np.isin(frequency[pool.categories], list(self.groups))))

    def clean(self, pool: Pool) -> Pool:
        """X-Paste's offline filter: one mask an image, then CLIP score and area fraction."""
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
    """Pastes generated instances that pass an offline filter by CLIP score and area."""

    paper = "X-Paste, arXiv 2212.03863"

    filtered: bool = True
