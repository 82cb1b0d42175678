"""What strangers' files are made of: values that nobody means, and good documents and bytes with something changed.

The same cases each time, so few that all fuzzers take half a minute. More of them, and others:

    BSGAL_BENCH_FUZZ=100 BSGAL_BENCH_FUZZ_SEED=7 pytest tests/fuzz
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("BSGAL_BENCH_FUZZ", "1"))
SEED = os.environ.get("BSGAL_BENCH_FUZZ_SEED")

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 5, 2**31, -(2**31), 2**63, 2**64, 10**30, -(10**400), 0.5, -0.5, 1e300, float("nan"),
    float("inf"), "", " ", "x", "0", "-1", "é", "x" * 300, "../x", "/etc/passwd", "a/b", "a\x00b", "a\nb", "\x1b[2J",
    "\ud800", "[/x]", "[bold]", "=1+1", "$x_", "\\input{x}", "|", "{name:>2000000000}", "javascript:alert(1)", "%j",
    [], [1], [None], [[]], [[1, 2, 3]], ["x"], [0, 0], [-1, 2**31], [2**40, 2**40], {}, {"x": 1}, {"": None},
    {"size": [4, 4], "counts": "x"}, {"size": 5, "counts": []}, [[[[[[[[[]]]]]]]]],
]  # fmt: skip
NUMBERS = [b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0" * 4, b"\1\0\0\0"]
_ANY = st.one_of(st.sampled_from(VALUES).map(copy.deepcopy), st.text(max_size=20), st.integers(), st.floats())


def fuzz(cases: int, *strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of so many cases, drawn from the strategies into its last arguments."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        chosen = settings(
            max_examples=cases * TIMES,
            derandomize=SEED is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        drawn = chosen(given(*strategies)(test))
        return drawn if SEED is None else seed(int(SEED))(drawn)

    return decorate


def changed(document: Any) -> st.SearchStrategy[Any]:
    """The document with one to three of its entries, anywhere, replaced, left out, or said twice."""
    return _changed(document)


@st.composite
def _changed(draw: st.DrawFn, document: Any) -> Any:
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            return draw(_ANY)
        inside, key = draw(st.sampled_from(places))
        if inside is None:
            return draw(_ANY)
        action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "twice", "new"]))
        if action == "drop":
            del inside[key]
        elif action == "new" and isinstance(inside, dict):
            inside[draw(st.sampled_from([value for value in VALUES if isinstance(value, str)]))] = draw(_ANY)
        elif action == "twice" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[key]))
        else:
            inside[key] = draw(_ANY)
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every entry of a document, as its container and key; the document itself as (None, None)."""
    found: list[tuple[Any, Any]] = [(None, None)]
    waiting = [document]
    while waiting:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        for key in keys:
            found.append((each, key))
            waiting.append(each[key])
    return found if len(found) > 1 else []


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some of them flipped, left out, put in, or all that follows cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        action = draw(st.sampled_from(["flip", "number", "drop", "insert", "cut", "move"]))
        if action == "flip" and content:
            content[place] = draw(st.integers(0, 255))
        elif action == "number":
            content[place : place + 4] = draw(st.sampled_from(NUMBERS))
        elif action == "drop":
            del content[place : place + draw(st.integers(1, 16))]
        elif action == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif action == "move":
            part = content[place : place + 8]
            content[: len(part)] = part
        else:
            del content[place:]
    return bytes(content)


@contextmanager
def refused(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """What is within ends well, or in an error of these kinds, of one line that holds the name."""
    try:
        yield
    except kinds as error:
        message = str(error)
        if name not in message or "\n" in message:
            raise AssertionError(f"no sentence about {name}: {message}") from error
