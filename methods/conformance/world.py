"""Batches and steps of the tiny world, and training on them as the training loop does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.policies import Policies
from harness.data.sample import Batch, Masks, Sample, Targets, View
from harness.data.seeding import generator
from harness.data.transport import PackedBatch, pack, unpack
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.conformance.elsewhere import HostTensors
from methods.conformance.faults import Fault
from methods.conformance.handed import Ledger
from methods.conformance.tiny import CLASSES, TinyDataset, TinyEngine, tiny_pool
from methods.contract import Draw, ImageFacts, Method, Scope, Selection, Start, ViewKind

IMAGES = 4
STEPS = 72  # of the schedule; the longest of the checks takes them all
NEAR = 1e-3  # relative error of a gradient


def fresh(method: Method) -> Method:
    """An instance with the same options and no state."""
    return dataclasses.replace(method)


def prepared(method: Method) -> tuple[Method, Any]:
    """A fresh instance as loader workers get it, and its pool."""
    method = fresh(method)
    return method, method.prepare(tiny_pool(), TinyDataset(), rng_at(0))


def started(method: Method) -> Method:
    """A fresh instance that a run would train with."""
    method, pool = prepared(method)
    method.start(start_of(pool))
    return method


def start_of(pool: Any) -> Start:
    return Start(STEPS, torch.device("cpu"), IMAGES, TinyDataset(), pool, needed=needed())


def needed() -> tuple[dict[str, Any], ...]:
    return ({"run_id": "bsgal-0", "statistics": {"acceptance_rate": 0.5}},)


def rng_at(position: int) -> np.random.Generator:
    return generator(7, "conformance", position)


def facts(image: int, dataset: TinyDataset) -> ImageFacts:
    image %= dataset.num_images
    categories = dataset.categories_of(image)
    categories.setflags(write=False)
    return ImageFacts(image, 32, 32, categories)


def drawn(method: Method, image: int, pool: Any, dataset: TinyDataset, policy: np.ndarray | None = None) -> Draw:
    heeded = {"policy": policy} if Policies.of(method) else {}
    return as_drawn(method.draw(facts(image, dataset), pool, rng_at(image), **heeded), image, pool, dataset)


def as_drawn(draw: Draw, image: int, pool: Any, dataset: TinyDataset) -> Draw:
    """With what the harness fills in before `reference`."""
    known = facts(image, dataset)
    return dataclasses.replace(
        draw, categories=pool.categories[draw.rows], image=known, visible_categories=known.categories
    )


def tiny_steps(engine: TinyEngine, first: int, last: int) -> Iterator[TrainingStep]:
    for iteration in range(first, last):
        yield tiny_step(engine, iteration, pasted=(0, 2) if iteration % 2 else (0, 1, 2, 3))


def tiny_step(
    engine: TinyEngine,
    iteration: int,
    pasted: tuple[int, ...] = (0, 2),
    references: int = IMAGES,
    ranks: Ranks | None = None,
) -> TrainingStep:
    ranks = ranks or Ranks()
    batch = unpack(_own(_packed(100 * iteration + 10000 * ranks.rank, pasted, references)))
    return TrainingStep(engine, batch, StepPosition(0, iteration, STEPS), ranks)


@lru_cache(256)
def _packed(seed: int, pasted: tuple[int, ...], references: int) -> PackedBatch:
    """As a loader worker sends it, but in memory of its own: shared memory would keep a file open for each."""
    return _own(pack(tiny_batch(seed, pasted, references)))


def _own(packed: PackedBatch) -> PackedBatch:
    return dataclasses.replace(packed, block=packed.block.clone())


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


def selected(method: Method, step: TrainingStep, elsewhere: HostTensors | None = None) -> Selection:
    """What a method decides about a step that is handed to it as the contract has it. Raises Fault."""
    ledger = Ledger(step, method.required(), elsewhere)
    try:
        selection = method.select(ledger.handed())
    except ValueError as error:
        if "the engine does not say" in str(error):
            raise Fault(f"{error} unless asked to: declare what `select` needs in `needs` or `required()`") from error
        raise
    finally:
        ledger.conclude()
    if type(selection) is not Selection:
        raise Fault(f"`select` gives {type(selection).__name__}, not methods.contract.Selection")
    return selection


def train(method: Method, step: TrainingStep) -> Selection:
    """One step as the training loop takes it, with plain SGD. Raises Fault."""
    selection = selected(method, step)
    table = step.trained_table(selection)
    losses = step.batch_losses(table)
    known = step.known_gradient(selection) if method.brings_gradient() else None
    if selection.gradient is not None:
        if not method.brings_gradient():
            raise Fault("`select` gives a Selection.gradient that is never taken: let `brings_gradient` give True")
        _check_gradient(step, selection, gradient_of(step, table.total()))
    gradient = gradient_of(step, torch.stack(list(losses.values())).sum()) if known is None else known.clone()
    step.ranks.average_(gradient)
    parameters = step.engine.parameters(Scope.all)
    with torch.no_grad():
        for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
            parameter.sub_(part.view_as(parameter), alpha=0.1)
    return selection


def gradient_of(step: TrainingStep, total: Tensor) -> Tensor:
    """(P,) over all parameters."""
    parameters = step.engine.parameters(Scope.all)
    parts = torch.autograd.grad(total, parameters, materialize_grads=True, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def _check_gradient(step: TrainingStep, selection: Selection, expected: Tensor) -> None:
    """Raises Fault for a `Selection.gradient` that is not of what is trained on."""
    given = selection.gradient
    assert given is not None
    if given.shape != expected.shape:
        raise Fault(f"Selection.gradient has shape {tuple(given.shape)}, not {tuple(expected.shape)}: flat, of all")
    if _near(given, expected):
        return
    rejected = bool((~selection.keep & step.has_pasted).any())
    if rejected and _near(given, gradient_of(step, step._table(ViewKind.AUGMENTED).total())):
        raise Fault(
            "Selection.gradient is that of the pasted view, and Selection.keep rejects it: the run would train on what "
            "its log calls rejected"
        )
    ratio = float(given.norm() / expected.norm().clamp(min=1e-12))
    if ratio > NEAR and _near(given / ratio, expected):
        raise Fault(
            f"Selection.gradient is {ratio:.3g} times the gradient of what is trained on: give it as it is, and weigh "
            "with Selection.weight"
        )
    raise Fault(
        "Selection.gradient is not the gradient of what is trained on: it is that of the total of the view that all "
        "images are trained on, over all parameters, and None if images of both views are mixed"
    )


def _near(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).norm() <= NEAR * second.norm() + 1e-7)
