"""Batches and steps of the tiny world, and training on them as the training loop does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from harness.data.sample import Batch, Masks, Sample, Targets, View
from harness.data.seeding import generator
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.conformance.tiny import CLASSES, TinyDataset, TinyEngine, tiny_pool
from methods.contract import Draw, ImageFacts, Method, Scope, Selection, Start

IMAGES = 4
STEPS = 6


def fresh(method: Method) -> Method:
    """An instance with the same options and no state."""
    return dataclasses.replace(method)


def start(method: Method) -> None:
    method.start(Start(STEPS, torch.device("cpu"), IMAGES, TinyDataset(), tiny_pool(), needed=needed()))


def needed() -> tuple[dict[str, Any], ...]:
    return ({"run_id": "bsgal-0", "statistics": {"acceptance_rate": 0.5}},)


def rng_at(position: int) -> np.random.Generator:
    return generator(7, "conformance", position)


def facts(image: int, dataset: TinyDataset) -> ImageFacts:
    image %= dataset.num_images
    return ImageFacts(image, 32, 32, dataset.categories_of(image))


def drawn(method: Method, image: int, pool: Any, dataset: TinyDataset) -> Draw:
    return as_drawn(method.draw(facts(image, dataset), pool, rng_at(image)), image, pool, dataset)


def as_drawn(draw: Draw, image: int, pool: Any, dataset: TinyDataset) -> Draw:
    """With what the harness fills in before `reference`."""
    known = facts(image, dataset)
    return dataclasses.replace(
        draw, categories=pool.categories[draw.rows], image=known, visible_categories=known.categories
    )


def tiny_steps(
    engine: TinyEngine | None = None, first: int = 0, last: int = STEPS
) -> Iterator[tuple[int, TrainingStep]]:
    engine = engine or TinyEngine()
    for iteration in range(first, last):
        yield iteration, tiny_step(engine, iteration, pasted=(0, 2) if iteration % 2 else (0, 1, 2, 3))


def tiny_step(
    engine: TinyEngine,
    iteration: int,
    pasted: tuple[int, ...] = (0, 2),
    references: int = IMAGES,
    ranks: Ranks | None = None,
) -> TrainingStep:
    ranks = ranks or Ranks()
    batch = tiny_batch(100 * iteration + 10000 * ranks.rank, pasted, references)
    return TrainingStep(engine, batch, StepPosition(0, iteration, STEPS), ranks)


def tiny_batch(seed: int, pasted: tuple[int, ...] = (0, 2), references: int = IMAGES, images: int = IMAGES) -> Batch:
    """Samples of coloured rectangles; `pasted` names the images that have a pasted view."""
    samples = []
    for image in range(images):
        rng = rng_at(seed + image)
        original = tiny_view(rng, instances=3)
        augmented = tiny_view(rng, instances=5, of_which_pasted=2) if image in pasted else None
        reference = (tiny_view(rng, instances=3),) if image < references else ()
        samples.append(Sample(seed + image, image, original, augmented, reference))
    return Batch(samples)


def tiny_view(rng: np.random.Generator, instances: int, of_which_pasted: int = 0) -> View:
    image = torch.from_numpy(rng.integers(0, 256, (3, 32, 32)).astype(np.uint8))
    corner = torch.from_numpy(rng.integers(0, 20, (instances, 2)).astype(np.float32))
    boxes = torch.cat([corner, corner + torch.from_numpy(rng.integers(4, 12, (instances, 2)).astype(np.float32))], 1)
    labels = torch.from_numpy(rng.integers(0, CLASSES, instances))
    full = torch.zeros(instances, 32, 32, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(full, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    pasted = torch.arange(instances) >= instances - of_which_pasted
    rows = torch.where(pasted, torch.arange(instances), -1)
    return View(image, Targets(boxes, labels, Masks.from_full(full), pasted, rows))


def train(method: Method, step: TrainingStep) -> Selection:
    """One step as the training loop takes it, with plain SGD."""
    selection = method.select(step)
    losses = step.batch_losses(step.trained_table(selection))
    parameters = step.engine.parameters(Scope.all)
    if selection.gradient is not None and step.ranks.world == 1:
        gradient = selection.gradient.clone()
    else:
        parts = torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in parts])
    step.ranks.average_(gradient)
    with torch.no_grad():
        for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
            parameter.sub_(part.view_as(parameter), alpha=0.1)
    return selection


def trained(method: Method) -> list[Selection]:
    start(method)
    return [train(method, step) for _, step in tiny_steps()]
