"""Checks of options, and of what runs before training and in loader workers."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from harness.data.policies import Policies
from methods import registry
from methods.conformance.faults import Fault, require
from methods.conformance.purity import Watch
from methods.conformance.tiny import TinyDataset, TinyEngine, tiny_pool
from methods.conformance.world import (
    IMAGES,
    as_drawn,
    drawn,
    facts,
    prepared,
    rng_at,
    started,
    tiny_steps,
    train,
)
from methods.contract import Draw, Method, Need, PasteRule

CHILD_SECONDS = 120
SOME = IMAGES * 4  # images that are drawn for


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
        raise Fault(f"an option is of a type that Hydra does not take (use Enum, not Literal): {error}") from error
    require(back == method, "the options change when they pass through Hydra")
    method.validate()
    require(method.required() <= frozenset(Need), "`required` gives something else than members of Need")


def check_prepare(method: Method) -> None:
    given, watch = tiny_pool(), Watch(method)
    with watch.hook("prepare"):
        first = method.prepare(given, TinyDataset(), rng_at(0))
    require(_same_pool(given, tiny_pool()), "`prepare` changed the pool it was given: take `pool.subset(rows)`")
    with unlike():
        again, pool = prepared(method)
    unseeded = "`prepare` gives two pools from one generator's seed: draw from the `rng` that it is given"
    require(_same_pool(first, pool), unseeded)
    for name in vars(again):
        own, other = getattr(method, name), getattr(again, name)
        if isinstance(own, np.ndarray | torch.Tensor):
            require(np.array_equal(np.asarray(own), np.asarray(other)), f"{unseeded} (self.{name} differs)")


def check_draw(method: Method) -> str:
    dataset, (method, pool) = TinyDataset(), prepared(method)
    kept, watch = copy.deepcopy(pool), Watch(method)
    policies = some_policies(method)
    count = []
    for policy in policies:
        draws = []
        for image in range(SOME):
            with watch.hook("draw"):
                draws.append(_drawn(method, image, pool, dataset, policy))
            _check_rows(draws[-1], pool)
        count += [len(draw.rows) for draw in draws]
        # Workers see images in any order, so a draw may depend on its generator, image and policy alone.
        with unlike():
            other, _ = prepared(method)
            backwards = [_drawn(other, image, pool, dataset, policy) for image in reversed(range(SOME))]
        require(
            all(np.array_equal(a.rows, b.rows) for a, b in zip(draws, reversed(backwards), strict=True)),
            "`draw` depends on the draws before it, or on more than its `rng`",
        )
    require(_same_pool(pool, kept), "`draw` changed the pool")
    return f"{np.mean(count):.1f} instances an image"


def some_policies(method: Method) -> list[np.ndarray | None]:
    """None, and what the method gives after a few steps, where it has a policy."""
    if Policies.of(method) is None:
        return [None]
    require(callable(getattr(type(method), "policy", None)), "`policy` is a hook's name: call the option otherwise")
    training = started(method)
    found: list[np.ndarray | None] = [None]
    for step in tiny_steps(TinyEngine(), 0, 3):
        train(training, step)
        with Watch(training).hook("policy"):
            policy = training.policy()
        require(isinstance(policy, np.ndarray), f"`policy` gives {type(policy).__name__}, not an array")
        require(np.isfinite(policy).all(), "`policy` gives numbers that are not finite")
        given = np.array(policy)
        given.setflags(write=False)
        found.append(given)
    return found


def _drawn(method: Method, image: int, pool: Any, dataset: TinyDataset, policy: np.ndarray | None) -> Draw:
    try:
        return drawn(method, image, pool, dataset, policy)
    except AttributeError as error:
        if error.obj is method:
            raise Fault(
                f"`draw` reads self.{error.name}, which loader workers do not have: make it in `prepare`, or hand on "
                "what training learns by `policy`"
            ) from error
        raise
    except TypeError as error:
        if "policy" in str(error):
            raise Fault("`draw` must take `policy: np.ndarray | None = None`, as the method has a policy") from error
        raise


def _check_rows(draw: Draw, pool: Any) -> None:
    rows = np.asarray(draw.rows)
    require(
        rows.ndim == 1 and rows.dtype == np.int64, f"Draw.rows is {rows.dtype} of shape {rows.shape}, not (k,) int64"
    )
    require(((rows >= 0) & (rows < max(len(pool), 1))).all(), "Draw.rows names rows that the pool does not have")
    if not isinstance(draw.rules, PasteRule):
        require(len(draw.rules) == len(rows), f"Draw.rules has {len(draw.rules)} rules for {len(rows)} rows")


def check_reference(method: Method) -> None:
    dataset, (method, pool) = TinyDataset(), prepared(method)
    watch = Watch(method)
    for image in range(SOME):
        for draw in (_drawn(method, image, pool, dataset, None), as_drawn(Draw(), image, pool, dataset)):
            with watch.hook("reference"):
                chosen = method.reference(draw, dataset, rng_at(image))
            if chosen is None:
                continue
            for index in chosen if isinstance(chosen, tuple) else (chosen,):
                require(
                    isinstance(index, int) and 0 <= index < dataset.num_images,
                    f"`reference` gave {chosen!r}, not the index (int) of a training image, or a tuple of such",
                )
            with unlike():
                again = prepared(method)[0].reference(draw, dataset, rng_at(image))
            require(chosen == again, "`reference` depends on more than the draw and its `rng`")


def check_empty_pool(method: Method) -> None:
    pool = method.prepare(tiny_pool(rows_per_category=0), TinyDataset(), rng_at(0))
    rows = method.draw(facts(0, TinyDataset()), pool, rng_at(1)).rows
    require(len(rows) == 0 or len(pool) > 0, "`draw` names rows of an empty pool")


def check_picklable(method: Method) -> None:
    method, _ = prepared(method)
    try:
        back = pickle.loads(pickle.dumps(method))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise Fault(f"it cannot be sent to loader workers: {error}") from error
    require(back == method, "a pickled method comes back with other options")


def check_spawned_worker(method: Method) -> None:
    """A spawned loader worker, which has imported nothing, unpickles the method and draws alike."""
    method, pool = prepared(method)
    own = [drawn(method, image, pool, TinyDataset()).rows.tolist() for image in range(IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "method.pickle"), Path(folder, "draws.pickle")
        given.write_bytes(pickle.dumps((method, pool)))
        _child(str(given), str(answer))
        theirs = pickle.loads(answer.read_bytes())
    require(theirs == own, "a spawned worker draws differently from the process that made the method")


def _child(given: str, answer: str) -> None:
    """Runs this module in a new interpreter."""
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from methods.conformance.offline import _main; _main(sys.argv)"
    done = subprocess.run(
        [sys.executable, "-c", code, given, answer], capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
    )
    last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    require(done.returncode == 0, f"a loader worker ended with: {last}")


def _main(arguments: list[str]) -> None:
    method, pool = pickle.loads(Path(arguments[1]).read_bytes())
    draws = [drawn(method, image, pool, TinyDataset()).rows.tolist() for image in range(IMAGES)]
    Path(arguments[2]).write_bytes(pickle.dumps(draws))


@contextmanager
def unlike() -> Iterator[None]:
    """Another process's global generators, for what must not depend on them."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(101)
    np.random.seed(101)  # noqa: NPY002
    random.seed(101)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def _same_pool(first: Any, second: Any) -> bool:
    return bool(
        np.array_equal(first.categories, second.categories)
        and first.columns == second.columns
        and all(_equal(first.column(name), second.column(name)) for name in first.columns)
    )


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
