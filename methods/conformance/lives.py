"""Checks of whole lives of a method: the same twice, resuming after a restart, on two ranks, in bounded memory."""

from __future__ import annotations

import dataclasses
import gc
import io
import pickle
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from harness.data.policies import Policies
from harness.training.distributed import Ranks
from harness.training.step import TrainingStep
from methods.conformance.faults import Fault, require
from methods.conformance.offline import unlike
from methods.conformance.purity import Watch
from methods.conformance.tiny import TinyEngine
from methods.conformance.world import STEPS, fresh, prepared, start_of, started, tiny_step, tiny_steps, train
from methods.contract import Method, Selection

STOPS = {3: 9, 40: 66}  # steps after which a life ends, and where the next one is compared to: warm-ups end in between
AGAIN = 24  # steps that are taken a second time
RANK_STEPS = 9
STRETCHED = 20_000  # entries


@dataclass
class Life:
    """What a method decided step by step, the state that it gave on the way, and itself."""

    method: Method
    engine: TinyEngine
    decided: list[tuple[Selection, np.ndarray | None]] = field(default_factory=list)
    saved: dict[int, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # of what can grow in the method, after AGAIN steps

    def live(self, first: int, last: int) -> Iterator[TrainingStep]:
        """Trains on the steps first..last-1."""
        for step in tiny_steps(self.engine, first, last):
            selection = train(self.method, step)
            if selection.gradient is not None:  # a buffer that the next step may write to
                selection = dataclasses.replace(selection, gradient=selection.gradient.clone())
            policy = np.array(self.method.policy()) if Policies.of(self.method) else None
            self.decided.append((selection, policy))
            yield step

    def save(self, iteration: int) -> None:
        file = io.BytesIO()
        torch.save({"method": self.method.state_dict(), "model": self.engine.module.state_dict()}, file)
        self.saved[iteration] = file.getvalue()


def whole_life(method: Method) -> Life:
    life = Life(started(method), TinyEngine())
    watch = Watch(life.method)
    for step in life.live(0, max(STOPS.values())):
        if step.iteration + 1 in STOPS:
            with watch.hook("state_dict"):
                life.save(step.iteration + 1)
        if step.iteration + 1 == AGAIN:
            life.sizes = _sizes(life.method)
    return life


def check_the_same_twice(method: Method, life: Life) -> None:
    with unlike():
        again = Life(started(method), TinyEngine())
        for _ in again.live(0, AGAIN):
            pass
    require(
        _same(life.decided[:AGAIN], again.decided),
        "repeating the same steps gives other selections: draw from `step.rng`, and keep all state in `self`",
    )


def check_state_round_trip(method: Method, life: Life) -> None:
    for stop, end in STOPS.items():
        try:
            saved = torch.load(io.BytesIO(life.saved[stop]), weights_only=True)
        except pickle.UnpicklingError as error:
            raise Fault("`state_dict` holds more than tensors, numbers, strings, lists and dictionaries") from error
        resumed = Life(started(method), TinyEngine())
        with Watch(resumed.method).hook("load_state_dict"):
            resumed.method.load_state_dict(saved["method"])
        resumed.engine.module.load_state_dict(saved["model"])
        for _ in resumed.live(stop, end):
            pass
        require(
            _same(life.decided[stop:end], resumed.decided),
            f"after `load_state_dict` at step {stop} the selections differ from the uninterrupted ones: `state_dict` "
            "lacks something, or `load_state_dict` does not restore it",
        )


def check_memory(method: Method, life: Life) -> None:
    """Nothing of a step outlives it, and nothing grows for ever."""
    gc.collect()
    before = {id(tensor) for tensor in _with_graphs()}
    ended: list[ref[Any]] = []
    for step in life.live(max(STOPS.values()), STEPS):
        ended += [ref(step), ref(step.batch)]
    del step
    gc.collect()
    require(
        not any(each() for each in ended),
        "the step outlives itself, and with it its batch and graphs: keep the figures, not `step`",
    )
    require(
        all(id(tensor) in before for tensor in _with_graphs()),
        "a tensor with its graph outlives the step, and with it all that was computed: `.detach()` what is kept",
    )
    _check_growth(life)


def _check_growth(life: Life) -> None:
    """What has grown is made far longer: what is kept short is then cut again, what is not keeps growing."""
    early = life.sizes
    grown = [name for name, size in _sizes(life.method).items() if size - early.get(name, 0) >= (STEPS - AGAIN) // 2]
    for name, value in list(_containers(life.method)):
        if name in grown:
            _stretch(life.method, name, value)
    long = _sizes(life.method)
    try:
        for _ in life.live(STEPS, STEPS + len(grown[:1]) * 4):
            pass
    except Exception:
        return  # what was stretched is of a fixed length, and so bounded
    now = _sizes(life.method)
    for name in grown:
        require(
            now.get(name, 0) < long[name] + 4,
            f"self.{name} grows with every step, and a run has many: keep the last ones, in a deque(maxlen=...)",
        )


def _sizes(method: Method) -> dict[str, int]:
    return {name: len(value) for name, value in _containers(method)}


def _containers(method: Method) -> Iterator[tuple[str, Any]]:
    """What can grow in a method, by where it is."""
    waiting: list[tuple[str, Any, int]] = [(name, value, 3) for name, value in vars(method).items()]
    while waiting:
        name, value, depth = waiting.pop()
        bounded = isinstance(value, deque) and value.maxlen is not None
        array = isinstance(value, Tensor | np.ndarray) and value.ndim > 0
        if array or (isinstance(value, list | deque | set | dict | str) and not bounded):
            yield name, value
        if depth and isinstance(value, dict):
            waiting += [(f"{name}[{key!r}]", each, depth - 1) for key, each in value.items()]
        elif depth and hasattr(value, "__dict__") and not isinstance(value, Tensor):
            waiting += [(f"{name}.{key}", each, depth - 1) for key, each in vars(value).items()]


def _stretch(method: Method, name: str, value: Any) -> None:
    times = STRETCHED // len(value)
    if isinstance(value, list | deque):
        value.extend(list(value) * times)
    elif isinstance(value, Tensor) and name in vars(method):
        setattr(method, name, torch.cat([value] * times))
    elif isinstance(value, np.ndarray) and name in vars(method):
        setattr(method, name, np.concatenate([value] * times))


def _with_graphs() -> list[Tensor]:
    return [each for each in gc.get_objects() if issubclass(type(each), Tensor) and each.grad_fn is not None]


# --------------------------------------------------------------------------------------------------------- two ranks


class Pair:
    """Where two threads, a rank each, hand one another what they hold and say what they are about to do."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=60)
        self._held: list[Any] = [None, None]

    def exchange(self, rank: int, doing: str, value: Any) -> list[Any]:
        """Both ranks' values. Raises Fault on both where they do different things."""
        self._held[rank] = doing, value
        self._barrier.wait()
        both = list(self._held)
        self._barrier.wait()
        if both[0][0] != both[1][0]:
            raise Fault(
                "one rank calls `step.average` and the other does not: every rank must call it alike in every step, "
                "whatever was pasted or decided there; they would wait for each other forever"
            )
        return [value for _, value in both]

    def give_up(self) -> None:
        self._barrier.abort()


@dataclass(frozen=True)
class PairedRank(Ranks):
    """A rank that is a thread."""

    pair: Pair = field(default_factory=Pair)

    def average(self, value: Tensor) -> Tensor:
        doing = f"average of {tuple(value.shape)}"
        both: list[Tensor] = self.pair.exchange(self.rank, doing, value.detach().clone())
        return torch.stack(both).mean(0)

    def average_(self, value: Tensor) -> Tensor:
        return value.copy_(self.average(value))

    def most(self, value: float) -> float:
        return float(max(self.pair.exchange(self.rank, "most", value)))


def check_two_ranks(method: Method) -> None:
    """Two ranks, whose batches and decisions differ, call for averages alike and end with equal weights."""
    pair = Pair()
    engines = TinyEngine(), TinyEngine()  # here, since their weights come of torch's one global generator
    ended: list[dict[str, Any]] = [{}, {}]
    errors: list[Exception] = []

    def live(rank: int) -> None:
        try:
            ended[rank] = _rank_life(method, engines[rank], PairedRank(rank, 2, pair=pair))
        except Exception as error:
            errors.append(error)
            pair.give_up()

    threads = [threading.Thread(target=live, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    require(not errors, "two ranks wait for each other forever: does every rank call `step.average` alike?")
    first, second = ended
    require(
        _equal(first.pop("policy"), second.pop("policy")),
        "`policy` differs between ranks: make it of what `step.average` gives alone",
    )
    require(all(torch.equal(first[name], second[name]) for name in first), "two ranks end with different weights")


def _rank_life(method: Method, engine: TinyEngine, ranks: PairedRank) -> dict[str, Any]:
    method, pool = prepared(fresh(method))
    method.start(start_of(pool))
    for iteration in range(RANK_STEPS):
        pasted = () if (iteration + ranks.rank) % 3 == 0 else (0, 2)
        train(method, tiny_step(engine, iteration, pasted, references=2 * ((iteration + ranks.rank) % 3), ranks=ranks))
    return {**engine.module.state_dict(), "policy": method.policy() if Policies.of(method) else None}


def _same(first: list[Any], second: list[Any]) -> bool:
    return all(
        torch.equal(a.keep, b.keep)
        and all(_equal(getattr(a, name), getattr(b, name)) for name in ("contribution", "threshold", "instances"))
        and _equal(a.weight, b.weight)
        and _equal(a.gradient, b.gradient)
        and (a.decided, a.without_pasted) == (b.decided, b.without_pasted)
        and _equal(one, other)
        for (a, one), (b, other) in zip(first, second, strict=True)
    )


def _equal(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(torch.as_tensor(first).nan_to_num(), torch.as_tensor(second).nan_to_num())
