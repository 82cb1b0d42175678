"""The conformance kit: what every method must do right, each point a named check with a clear message.

From pytest: `from methods.conformance import check_method` and `check_method(MyMethod)`; from the command line
`harness methods check NAME`. The checks run a method through the harness's own training step on a tiny detector.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from harness.data.sample import Batch
from harness.training.distributed import Ranks
from methods import registry
from methods.conformance.tiny import TinyDataset, TinyEngine, tiny_pool
from methods.conformance.world import (
    IMAGES,
    STEPS,
    as_drawn,
    drawn,
    facts,
    fresh,
    rng_at,
    start,
    tiny_step,
    tiny_steps,
    train,
    trained,
)
from methods.contract import Draw, Method, Need, PasteRule, Scope, Selection

CHILD_SECONDS = 120


@dataclass(frozen=True)
class Result:
    """One check: its name, what is wrong (empty when nothing is), and what it measured."""

    name: str
    fault: str = ""
    note: str = ""


@dataclass
class Report:
    """All checks of a method. `cost` counts passes of one step: forward, backward (the training one included)."""

    method: str
    results: list[Result] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def faults(self) -> list[Result]:
        return [result for result in self.results if result.fault]


class Fault(AssertionError):
    """What a method does wrong, in one sentence."""


def require(holds: object, otherwise: str) -> None:
    """Raises Fault with a sentence; asserts would vanish under `python -O`."""
    if not holds:
        raise Fault(otherwise)


def check_method(method: type[Method] | Method | str, *, processes: bool = True) -> Report:
    """Runs every check. Raises AssertionError that lists all that failed, one line each.

    A class or name is checked with its default options, an instance with its own. processes=False leaves out the two
    checks that start other processes (a spawned loader worker, two ranks over gloo).
    """
    report = run_checks(method, processes=processes)
    if report.faults:
        lines = [f"  {result.name}: {result.fault}" for result in report.faults]
        raise AssertionError(
            "\n".join([f"{report.method} fails {len(lines)} of {len(report.results)} checks:", *lines])
        )
    return report


def run_checks(method: type[Method] | Method | str, *, processes: bool = True) -> Report:
    """Runs every check and gives what each found; nothing is raised for a fault of the method."""
    if isinstance(method, str):
        method = registry.find(method)
    instance = method() if isinstance(method, type) else method
    report = Report(type(instance).__name__)
    for check in CHECKS + (PROCESS_CHECKS if processes else []):
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            note = check(copy.deepcopy(instance))
            report.results.append(Result(name, note=note or ""))
        except Fault as error:
            report.results.append(Result(name, fault=str(error)))
        except Exception as error:
            report.results.append(Result(name, fault=f"{type(error).__name__}: {error} (at {_own_line(error)})"))
    if not report.faults:
        report.cost = cost_of_step(instance)
    return report


# ------------------------------------------------------------------------------------------------------------- options


def check_registered(method: Method) -> str:
    name = registry.name_of(method)
    require(
        (type(method).__doc__ or "").strip() and not str(type(method).__doc__).startswith(f"{type(method).__name__}("),
        "the class has no docstring: its first line is what `harness methods` shows",
    )
    return name


def check_options(method: Method) -> None:
    try:
        back = OmegaConf.to_object(OmegaConf.structured(method))
    except Exception as error:
        raise AssertionError(
            f"an option is of a type that Hydra does not take (use Enum, not Literal): {error}"
        ) from error
    require(back == method, "the options change when they pass through Hydra")
    method.validate()
    require(method.required() <= frozenset(Need), "`required` gives something else than members of Need")


# -------------------------------------------------------------------------------------------------- offline, in workers


def check_prepare(method: Method) -> None:
    pool, dataset = tiny_pool(), TinyDataset()
    first = method.prepare(pool, dataset, rng_at(0))
    again = fresh(method).prepare(tiny_pool(), TinyDataset(), rng_at(0))
    require(np.array_equal(first.categories, again.categories), "`prepare` gives two pools from one generator's seed")
    require(len(pool) == len(tiny_pool()), "`prepare` changed the pool it was given: take `pool.subset(rows)`")


def check_draw(method: Method) -> str:
    dataset = TinyDataset()
    pool = method.prepare(tiny_pool(), dataset, rng_at(0))
    kept = copy.deepcopy(pool)
    draws = [drawn(method, image, pool, dataset) for image in range(IMAGES * 4)]
    for draw in draws:
        rows = np.asarray(draw.rows)
        require(
            rows.ndim == 1 and rows.dtype == np.int64,
            f"Draw.rows is {rows.dtype} of shape {rows.shape}, not (k,) int64",
        )
        require(((rows >= 0) & (rows < max(len(pool), 1))).all(), "Draw.rows names rows that the pool does not have")
        if not isinstance(draw.rules, PasteRule):
            require(len(draw.rules) == len(rows), f"Draw.rules has {len(draw.rules)} rules for {len(rows)} rows")
    # Workers see images in any order, so a draw may depend on its generator and image alone.
    alone = drawn(fresh(method), IMAGES * 4 - 1, pool, dataset)
    require(
        np.array_equal(alone.rows, draws[-1].rows), "`draw` depends on the draws before it, or on more than its `rng`"
    )
    require(np.array_equal(pool.categories, kept.categories), "`draw` changed the pool")
    return f"{np.mean([len(draw.rows) for draw in draws]):.1f} instances an image"


def check_reference(method: Method) -> None:
    dataset = TinyDataset()
    pool = method.prepare(tiny_pool(), dataset, rng_at(0))
    for image in range(IMAGES * 4):
        for draw in (drawn(method, image, pool, dataset), as_drawn(Draw(), image, pool, dataset)):
            chosen = method.reference(draw, dataset, rng_at(image))
            if chosen is None:
                continue
            for index in chosen if isinstance(chosen, tuple) else (chosen,):
                require(
                    isinstance(index, int) and 0 <= index < dataset.num_images,
                    f"`reference` gave {chosen!r}, not the index (int) of a training image, or a tuple of such",
                )
            require(
                chosen == fresh(method).reference(draw, dataset, rng_at(image)),
                "`reference` depends on more than the draw and its `rng`",
            )


def check_empty_pool(method: Method) -> None:
    empty = tiny_pool(rows_per_category=0)
    prepared = method.prepare(empty, TinyDataset(), rng_at(0))
    rows = method.draw(facts(0, TinyDataset()), prepared, rng_at(1)).rows
    require(len(rows) == 0 or len(prepared) > 0, "`draw` names rows of an empty pool")


def check_picklable(method: Method) -> None:
    back = pickle.loads(pickle.dumps(method))
    require(back == method, "a pickled method comes back with other options")


# ------------------------------------------------------------------------------------------------- the training step


# Shapes that a selection's tensors may have; None stands for (n, G), those of `Step.instances`.
SHAPES: dict[str, list[tuple[int, ...] | None]] = {
    "contribution": [(), (IMAGES,), None],
    "threshold": [(), (IMAGES,), None],
    "instances": [None],
    "weight": [(IMAGES,), None],
}


def check_selection(method: Method) -> None:
    start(method)
    for iteration, step in tiny_steps():
        selection = method.select(step)
        keep = selection.keep
        require(
            isinstance(keep, Tensor) and keep.dtype == torch.bool and keep.shape == (IMAGES,),
            f"Selection.keep is {_shown(keep)}, not ({IMAGES},) bool",
        )
        require(keep.device == step.device, f"Selection.keep is on {keep.device}, the step on {step.device}")
        require(isinstance(selection.decided, bool), "Selection.decided is not a bool")
        single = tuple(step.instances.pasted.shape)
        for name, shapes in SHAPES.items():
            value = getattr(selection, name)
            if isinstance(value, Tensor):
                allowed = [single if shape is None else shape for shape in shapes]
                require(
                    tuple(value.shape) in allowed,
                    f"Selection.{name} has shape {tuple(value.shape)} at step {iteration}, not one of {allowed}",
                )
                require(not value.requires_grad, f"Selection.{name} holds a graph: detach it")
        if selection.instances is not None:
            require(selection.instances.dtype == torch.bool, "Selection.instances is not bool")


def check_nothing_is_written(method: Method) -> None:
    start(method)
    options = dataclasses.asdict(method)
    for _, step in tiny_steps():
        batch, weights = copy.deepcopy(step.batch), [p.clone() for p in step.engine.parameters(Scope.all)]
        method.select(step)
        now = step.engine.parameters(Scope.all)
        require(all(torch.equal(a, b) for a, b in zip(weights, now, strict=True)), "`select` changed the weights")
        require(all(p.grad is None for p in now), "`select` left gradients in the parameters: take `step.gradient`")
        require(_same_batch(batch, step.batch), "`select` changed the batch")
    require(dataclasses.asdict(method) == options, "`select` changed an option: make run-time state in `start`")


def check_determinism(method: Method) -> None:
    first, second = trained(method), trained(fresh(method))
    require(_same_selections(first, second), "the same steps give other selections a second time: draw from `step.rng`")


def check_state_round_trip(method: Method) -> None:
    whole = trained(method)
    half = fresh(method)
    start(half)
    engine = TinyEngine()
    for _, step in tiny_steps(engine, 0, STEPS // 2):
        train(half, step)
    file = io.BytesIO()
    torch.save({"method": half.state_dict(), "model": engine.module.state_dict()}, file)
    file.seek(0)
    try:
        saved = torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:
        raise AssertionError(
            "`state_dict` holds more than tensors, numbers, strings, lists and dictionaries"
        ) from error
    resumed, engine = fresh(method), TinyEngine()
    start(resumed)
    resumed.load_state_dict(saved["method"])
    engine.module.load_state_dict(saved["model"])
    rest = [train(resumed, step) for _, step in tiny_steps(engine, STEPS // 2, STEPS)]
    require(
        _same_selections(whole[STEPS // 2 :], rest),
        "after `load_state_dict` the selections differ from the uninterrupted ones: `state_dict` lacks something",
    )


def check_batch_without_pasted_instances(method: Method) -> None:
    start(method)
    for iteration in range(2):
        step = tiny_step(TinyEngine(), iteration, pasted=())
        selection = method.select(step)
        require(bool(selection.keep.all()), "a batch in which nothing was pasted is trained as it is: keep all")
        require(
            not selection.decided, "a batch in which nothing was pasted counts in no acceptance rate: decided=False"
        )
        step.trained_table(selection)


def check_step_without_references(method: Method) -> None:
    start(method)
    for iteration in range(2):
        step = tiny_step(TinyEngine(), iteration, references=0)
        step.trained_table(method.select(step))


CHECKS: list[Callable[[Method], str | None]] = [
    check_registered,
    check_options,
    check_prepare,
    check_draw,
    check_reference,
    check_empty_pool,
    check_picklable,
    check_selection,
    check_nothing_is_written,
    check_determinism,
    check_state_round_trip,
    check_batch_without_pasted_instances,
    check_step_without_references,
]


# ------------------------------------------------------------------------------------------------- with other processes


def check_spawned_worker(method: Method) -> None:
    """A spawned loader worker, which has imported nothing, unpickles the method and draws alike."""
    pool = method.prepare(tiny_pool(), TinyDataset(), rng_at(0))
    own = [drawn(method, image, pool, TinyDataset()).rows.tolist() for image in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "method.pickle"), Path(folder, "draws.pickle")
        given.write_bytes(pickle.dumps((method, pool)))
        _child("worker", str(given), str(answer))
        theirs = pickle.loads(answer.read_bytes())
    require(theirs == own, "a spawned worker draws otherwise than the process that made the method")


def check_two_ranks(method: Method) -> None:
    """Two processes over gloo, whose batches and decisions differ, end with equal weights."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "method.pickle")
        given.write_bytes(pickle.dumps(method))
        _child("ranks", str(given), folder)
        first, second = (torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2))
    require(all(torch.equal(first[name], second[name]) for name in first), "two ranks end with different weights")


PROCESS_CHECKS: list[Callable[[Method], str | None]] = [check_spawned_worker, check_two_ranks]


def _child(*arguments: str) -> None:
    """Runs this module in a new interpreter; a hang (ranks that wait for each other) is a fault like any other."""
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from methods.conformance import _main; _main(sys.argv[1:])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Fault(
            f"the processes did not end within {CHILD_SECONDS} s: do all ranks call `step.average` alike?"
        ) from None
    require(
        done.returncode == 0, f"another process ended with: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
    )


def _main(arguments: list[str]) -> None:
    if arguments[0] == "worker":
        method, pool = pickle.loads(Path(arguments[1]).read_bytes())
        draws = [drawn(method, image, pool, TinyDataset()).rows.tolist() for image in range(IMAGES)]
        Path(arguments[2]).write_bytes(pickle.dumps(draws))
        return
    spawn(_rank, (Path(arguments[1]).read_bytes(), arguments[2]), nprocs=2)


def _rank(rank: int, pickled: bytes, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    method: Method = pickle.loads(pickled)
    start(method)
    engine = TinyEngine()
    for iteration in range(STEPS):
        pasted = () if (iteration + rank) % 3 == 0 else (0, 2)
        train(method, tiny_step(engine, iteration, pasted, ranks=Ranks(rank, 2)))
    torch.save(engine.module.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


# ---------------------------------------------------------------------------------------------------------------- cost


def cost_of_step(method: Method) -> dict[str, float]:
    """Mean forward and backward passes of a step, the training pass included; a plain step has 1 and 1."""
    method = fresh(method)
    start(method)
    engine = TinyEngine()
    backward = 0
    for _, step in tiny_steps(engine):
        take = step.gradient

        def counted(*args: Any, take: Callable[..., Tensor] = take, **kwargs: Any) -> Tensor:
            nonlocal backward
            backward += 1
            return take(*args, **kwargs)

        step.gradient = counted  # type: ignore[method-assign]
        selection = train(method, step)
        backward += selection.gradient is None
    return {"forward": engine.passes / STEPS, "backward": backward / STEPS}


def _same_selections(first: list[Selection], second: list[Selection]) -> bool:
    return all(
        torch.equal(a.keep, b.keep)
        and _same(a.contribution, b.contribution)
        and _same(a.threshold, b.threshold)
        and _same(a.instances, b.instances)
        and _same(a.weight, b.weight)
        and a.decided == b.decided
        for a, b in zip(first, second, strict=True)
    )


def _same(first: Tensor | float | None, second: Tensor | float | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(torch.as_tensor(first).nan_to_num(), torch.as_tensor(second).nan_to_num())


def _same_batch(first: Batch, second: Batch) -> bool:
    pairs = [
        (a, b)
        for kind in ("original", "augmented", "reference")
        for a, b in zip(getattr(first, kind), getattr(second, kind), strict=True)
    ]
    return all(
        torch.equal(a.image, b.image)
        and torch.equal(a.targets.boxes, b.targets.boxes)
        and torch.equal(a.targets.labels, b.targets.labels)
        for a, b in pairs
    )


def _shown(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)


def _own_line(error: Exception) -> str:
    """Where the method's own code raised; the innermost frame that belongs to no check."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != Path(__file__).parent]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the check itself"
