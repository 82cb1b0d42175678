"""A world small enough for checks: a detector of a few hundred weights, a pool and a dataset held in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.contract import Attribution, LastLayer, Loss, LossKind, LossTable, Need, Pool, Proposals, Scope

CLASSES = 6
BACKGROUND = 4  # sampled proposals an image beside the ground truth


class TinyPool:
    """A `Pool` over arrays, which are made read-only so that a method that writes to them is caught."""

    def __init__(self, categories: np.ndarray, **columns: np.ndarray) -> None:
        self._categories = _frozen(np.asarray(categories, np.int64))
        self._columns = {name: _frozen(np.asarray(values)) for name, values in columns.items()}

    def __len__(self) -> int:
        return len(self._categories)

    @property
    def categories(self) -> np.ndarray:
        return self._categories

    @property
    def present_categories(self) -> np.ndarray:
        return np.unique(self._categories)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def rows_of(self, category: int) -> np.ndarray:
        return np.flatnonzero(self._categories == category)

    def column(self, name: str) -> np.ndarray:
        return self._columns[name]

    def subset(self, rows: np.ndarray) -> TinyPool:
        return TinyPool(self._categories[rows], **{name: values[rows] for name, values in self._columns.items()})

    def open(self, row: int) -> np.ndarray:
        rng = np.random.Generator(np.random.PCG64([int(self._categories[row]), row]))
        return rng.integers(0, 256, (12, 10, 4)).astype(np.uint8)


class TinyDataset:
    """`DatasetFacts` of 24 images, two categories each; category 0 is rare, 5 has no image."""

    num_images = 24
    num_categories = CLASSES

    def __init__(self) -> None:
        self._of_image = [sorted({0, 1} if i == 0 else {1 + i % 4, 1 + (i + 1) % 4}) for i in range(self.num_images)]
        self.image_count = _frozen(np.array([len(self.images_of(c)) for c in range(CLASSES)], np.int64))
        self.frequency = _frozen(np.array(["r", "c", "c", "f", "f", "r"]))

    def images_of(self, category: int) -> np.ndarray:
        return np.array([i for i, held in enumerate(self._of_image) if category in held], np.int64)

    def categories_of(self, image: int) -> np.ndarray:
        return np.array(self._of_image[image], np.int64)

    def instance_pool(self) -> TinyPool:
        pairs = np.array([(c, i) for i, held in enumerate(self._of_image) for c in held])
        return TinyPool(pairs[:, 0], image=pairs[:, 1], annotation=np.arange(len(pairs)))

    def join(self, first: Pool, second: Pool) -> TinyPool:
        columns = {}
        for name in dict.fromkeys([*first.columns, *second.columns]):
            parts = [_filled(pool, name, like=(first if name in first.columns else second)) for pool in (first, second)]
            columns[name] = np.concatenate(parts)
        return TinyPool(np.concatenate([first.categories, second.categories]), **columns)


def tiny_pool(rows_per_category: int = 5, seed: int = 0) -> TinyPool:
    """Instances of every category with all the columns that the built-in methods know."""
    rng = np.random.Generator(np.random.PCG64(seed))
    categories = np.repeat(np.arange(CLASSES), rows_per_category)
    count = len(categories)
    return TinyPool(
        categories,
        path=np.array([f"{row // 2}.png" for row in range(count)]),
        clip_score=rng.uniform(15, 30, count),
        area_fraction=rng.uniform(0.01, 0.99, count),
        inter_similarity=rng.uniform(0.4, 0.9, count),
        generator=np.array(["a", "b"])[rng.integers(0, 2, count)],
        prompt_id=rng.integers(0, 3, count),
    )


class TinyDetector(nn.Module):
    """Classifies boxes from their mean colour and size, in two stages, with a box and a proposal loss beside."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(5, 8)
        self.stages = nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(2))
        self.box = nn.Linear(8, 4)
        self.proposal = nn.Linear(8, 1)

    def forward(self, described: Tensor) -> Tensor:
        features: Tensor = torch.tanh(self.backbone(described))
        return features


class TinyEngine:
    """An `Engine` around `TinyDetector` with every capability; `passes` counts forward passes."""

    capabilities = frozenset(Need)

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module: nn.Module = TinyDetector().to(dtype)
        self.passes = 0

    @property
    def _detector(self) -> TinyDetector:
        assert isinstance(self.module, TinyDetector)
        return self.module

    def losses(
        self, views: Sequence[Any], proposals: Proposals, rng: torch.Generator, *, backbone_in_eval: bool = False
    ) -> LossTable:
        self.passes += 1
        regions = _regions(views, BACKGROUND if proposals is Proposals.SAMPLED else 0, rng)
        features = self._features(views, regions)
        goal = F.one_hot(regions.labels, CLASSES + 1)[:, :CLASSES].to(features.dtype)
        found = {}
        for number, stage in enumerate(self._detector.stages):
            logits = stage(features)
            each = F.binary_cross_entropy_with_logits(logits, goal, reduction="none").sum(1)
            loss = regions.loss(LossKind.CLASSIFICATION, each, pasted=True)
            every = torch.ones_like(goal, dtype=torch.bool)
            seen = LastLayer(features.detach(), logits.detach(), regions.labels, every, regions.image)
            found[f"cls_stage{number}"] = replace(loss, last_layer=seen)
        true = regions.take(regions.instance >= 0)
        real = features[regions.instance >= 0]
        found["box"] = true.loss(LossKind.BOX, self._detector.box(real).abs().sum(1))
        found["mask"] = true.loss(LossKind.MASK, self._detector.box(real).square().sum(1))
        proposal = F.softplus(-self._detector.proposal(real)).sum(1)
        found["proposal"] = true.loss(LossKind.PROPOSAL, proposal, across_ranks=True)
        return LossTable(found)

    def _features(self, views: Sequence[Any], regions: _Regions) -> Tensor:
        features: Tensor = self._detector(_described(views, regions).to(self._detector.box.weight.dtype))
        return features

    def shared_counts(self, views: Sequence[Any]) -> dict[str, Tensor]:
        return {"proposal": torch.tensor(float(sum(len(view.targets) for view in views)))}

    @torch.no_grad()
    def confidence(self, views: Sequence[Any], table: LossTable) -> Tensor:
        regions = _regions(views, 0, torch.Generator())
        features = self._features(views, regions)
        each = torch.stack([stage(features).sigmoid() for stage in self._detector.stages]).mean(0)
        found = torch.zeros(regions.shape)
        found.view(-1)[regions.instance] = each.gather(1, regions.labels[:, None]).squeeze(1).to(found.dtype)
        return found

    def backbone_features(self, images: Sequence[Tensor]) -> Tensor:
        """The pixels: there is no backbone below the tiny detector."""
        return torch.stack([image.float() / 255 for image in images])

    def predict(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Any]:
        return []

    def parameters(self, scope: Scope) -> list[nn.Parameter]:
        named = list(self.module.named_parameters())
        if scope is Scope.heads:
            named = [(name, p) for name, p in named if not name.startswith("backbone")]
        elif scope is Scope.last:
            named = [(name, p) for name, p in named if name.startswith("stages.1")]
        return [p for _, p in named]

    def load(self, weights: Any, *, averaged: bool = True) -> str:
        self.module.load_state_dict(torch.load(weights, weights_only=True))
        return "everything matched"


@dataclass(frozen=True)
class _Regions:
    """R regions of n images in their order: instances, then background. instance (R,): as `Attribution` has it."""

    shape: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    pasted: Tensor
    image: Tensor
    instance: Tensor

    def take(self, rows: Tensor) -> _Regions:
        held = (self.boxes, self.labels, self.pasted, self.image, self.instance)
        return _Regions(self.shape, *(each[rows] for each in held))

    def loss(self, kind: LossKind, each: Tensor, *, pasted: bool = False, across_ranks: bool = False) -> Loss:
        """each (R,): a term of each region."""

        def by_image(values: Tensor) -> Tensor:
            return values.new_zeros(self.shape[0]).index_add(0, self.image, values)

        ones = torch.ones_like(each)
        of_pasted = by_image(each * self.pasted) if pasted else None
        belongs = Attribution(each, ones, self.instance, self.shape)
        return Loss(kind, by_image(each), by_image(ones), of_pasted, across_ranks, belongs)


def _regions(views: Sequence[Any], background: int, rng: torch.Generator) -> _Regions:
    """The instances of views, and so many places of each that are drawn."""
    most = max(1, *(len(view.targets) for view in views))
    boxes, labels, pasted, image, instance = [], [], [], [], []
    for number, view in enumerate(views):
        targets, count = view.targets, len(view.targets)
        height, width = view.image.shape[1:]
        corner = torch.rand(background, 2, generator=rng) * torch.tensor([width, height]) / 2
        boxes += [targets.boxes, torch.cat([corner, corner + 4], 1)]
        labels += [targets.labels, torch.full((background,), CLASSES)]
        pasted += [targets.pasted, torch.zeros(background, dtype=torch.bool)]
        image.append(torch.full((count + background,), number))
        instance += [torch.arange(number * most, number * most + count), torch.full((background,), -1)]
    held = (torch.cat(parts) for parts in (boxes, labels, pasted, image, instance))
    return _Regions((len(views), most), *held)


def _described(views: Sequence[Any], regions: _Regions) -> Tensor:
    """(R, 5): mean colour of each region and its width and height as shares of the image's."""
    images = torch.stack([view.image for view in views]).double()
    height, width = images.shape[2:]
    sums = F.pad(images.cumsum(2).cumsum(3), (1, 0, 1, 0))  # of all that lies above and to the left
    x0, y0, x1, y1 = regions.boxes.round().long().unbind(1)
    x0, y0 = x0.clamp(0, width - 1), y0.clamp(0, height - 1)
    x1, y1 = torch.maximum(x1, x0 + 1).clamp(max=width), torch.maximum(y1, y0 + 1).clamp(max=height)
    size = torch.stack([x1 - x0, y1 - y0], 1)
    i = regions.image
    inside = sums[i, :, y1, x1] - sums[i, :, y0, x1] - sums[i, :, y1, x0] + sums[i, :, y0, x0]
    colour = (inside / size.prod(1, keepdim=True)).float() / 255
    return torch.cat([colour, size / regions.boxes.new_tensor([width, height])], 1)


def _frozen(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.setflags(write=False)
    return values


def _filled(pool: Pool, name: str, like: Pool) -> np.ndarray:
    if name in pool.columns:
        return pool.column(name)
    kind = like.column(name).dtype
    empty: Any = {"i": -1, "f": np.nan}.get(kind.kind, "")
    return np.full(len(pool), empty, dtype=kind)
