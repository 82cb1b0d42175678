"""A world small enough for checks: a detector of a few hundred weights, a pool and a dataset held in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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

    def losses(
        self, views: Sequence[Any], proposals: Proposals, rng: torch.Generator, *, backbone_in_eval: bool = False
    ) -> LossTable:
        self.passes += 1
        detector = self.module
        assert isinstance(detector, TinyDetector)
        parts = [self._of_image(detector, view, proposals, rng) for view in views]
        return LossTable({name: _stacked([part[name] for part in parts]) for name in parts[0]})

    def shared_counts(self, views: Sequence[Any]) -> dict[str, Tensor]:
        return {"proposal": torch.tensor(float(sum(len(view.targets) for view in views)))}

    @torch.no_grad()
    def confidence(self, views: Sequence[Any], table: LossTable) -> Tensor:
        detector = self.module
        assert isinstance(detector, TinyDetector)
        found = torch.zeros(len(views), max(1, *(len(view.targets) for view in views)))
        for image, view in enumerate(views):
            features = detector(_described(view.image, view.targets.boxes).to(detector.box.weight.dtype))
            each = torch.stack([stage(features).sigmoid() for stage in detector.stages]).mean(0)
            found[image, : len(each)] = each.gather(1, view.targets.labels[:, None]).squeeze(1)
        return found

    def _of_image(
        self, detector: TinyDetector, view: Any, proposals: Proposals, rng: torch.Generator
    ) -> dict[str, Loss]:
        targets, boxes = view.targets, view.targets.boxes
        labels = targets.labels
        pasted = targets.pasted
        if proposals is Proposals.SAMPLED:
            height, width = view.image.shape[1:]
            corner = torch.rand(BACKGROUND, 2, generator=rng, device=boxes.device) * torch.tensor([width, height]) / 2
            boxes = torch.cat([boxes, torch.cat([corner, corner + 4], 1)])
            labels = F.pad(labels, (0, BACKGROUND), value=CLASSES)
            pasted = F.pad(pasted, (0, BACKGROUND))
        dtype = detector.box.weight.dtype
        features = detector(_described(view.image, boxes).to(dtype))
        goal = F.one_hot(labels, CLASSES + 1)[:, :CLASSES].to(dtype)
        found = {}
        for number, stage in enumerate(detector.stages):
            logits = stage(features)
            each = F.binary_cross_entropy_with_logits(logits, goal, reduction="none").sum(1)
            loss = _loss(LossKind.CLASSIFICATION, each, len(targets), (each * pasted).sum())
            every, image = torch.ones_like(goal, dtype=torch.bool), torch.zeros_like(labels)
            seen = LastLayer(features.detach(), logits.detach(), labels, every, image)
            found[f"cls_stage{number}"] = replace(loss, last_layer=seen)
        real = features[: len(targets)]
        found["box"] = _loss(LossKind.BOX, detector.box(real).abs().sum(1), len(targets))
        found["mask"] = _loss(LossKind.MASK, detector.box(real).square().sum(1), len(targets))
        found["proposal"] = _loss(
            LossKind.PROPOSAL, F.softplus(-detector.proposal(real)).sum(1), len(targets), across_ranks=True
        )
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


def _described(image: Tensor, boxes: Tensor) -> Tensor:
    """(n, 5): mean colour of each box and its width and height as shares of the image's."""
    height, width = image.shape[1:]
    sums = F.pad(image.double().cumsum(1).cumsum(2), (1, 0, 1, 0))  # of all that lies above and to the left
    x0, y0, x1, y1 = boxes.round().long().unbind(1)
    x0, y0 = x0.clamp(0, width - 1), y0.clamp(0, height - 1)
    x1, y1 = torch.maximum(x1, x0 + 1).clamp(max=width), torch.maximum(y1, y0 + 1).clamp(max=height)
    size = torch.stack([x1 - x0, y1 - y0])
    inside = sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]
    colour = (inside / size.prod(0)).T.float() / 255
    return torch.cat([colour, size.T / boxes.new_tensor([width, height])], 1)


def _loss(
    kind: LossKind, each: Tensor, instances: int, pasted: Tensor | None = None, *, across_ranks: bool = False
) -> Loss:
    """Of one image whose first terms are its instances', one each."""
    place = torch.arange(len(each), device=each.device)
    belongs = Attribution(each, torch.ones_like(each), torch.where(place < instances, place, -1), (1, instances))
    return Loss(kind, each.sum(), each.new_tensor(float(len(each))), pasted, across_ranks, belongs)


def _stacked(parts: list[Loss]) -> Loss:
    """Losses of single images as one of the batch."""
    pasted = [part.pasted for part in parts if part.pasted is not None]
    first = parts[0]
    belongs = [part.attribution for part in parts if part.attribution is not None]
    seen = [part.last_layer for part in parts if part.last_layer is not None]
    most = max(1, *(each.shape[1] for each in belongs))
    places = [torch.where(each.instance < 0, -1, each.instance + i * most) for i, each in enumerate(belongs)]
    return Loss(
        first.kind,
        torch.stack([part.sum for part in parts]),
        torch.stack([part.count for part in parts]),
        torch.stack(pasted) if pasted else None,
        first.across_ranks,
        Attribution(
            torch.cat([each.terms for each in belongs]),
            torch.cat([each.units for each in belongs]),
            torch.cat(places),
            (len(parts), most),
        ),
        _together(seen) if seen else None,
    )


def _together(parts: list[LastLayer]) -> LastLayer:
    """What the last layer sees of single images' regions, as that of the batch's."""
    return LastLayer(
        inputs=torch.cat([part.inputs for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        counted=torch.cat([part.counted for part in parts]),
        image=torch.cat([part.image + i for i, part in enumerate(parts)]),
    )


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
