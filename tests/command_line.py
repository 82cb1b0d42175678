"""The command line in this process: what a user types, without the seconds in which an interpreter loads torch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from harness.cli import main
from methods import registry


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code and what it wrote to its two streams."""

    code: int
    out: str
    err: str


def harness(*words: str, cwd: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs `harness WORDS` in the folder `cwd` as if in a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment or {}))
        stack.enter_context(mock.patch.object(sys, "argv", ["harness", *words]))
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(_torch_as_it_was())
        stack.enter_context(_registries_as_they_were())
        stack.enter_context(_logging_as_it_was())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        code = _exit_code()
    return Ended(code, out.getvalue(), err.getvalue())


def _exit_code() -> int:
    """What the interpreter makes of the way in which `main` ends."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextlib.contextmanager
def _registries_as_they_were() -> Iterator[None]:
    """A method of the user's file is known to that command alone, and Hydra to nobody."""
    earlier = set(registry._files)
    try:
        yield
    finally:
        for module in set(registry._files) - earlier:
            for name in registry._names_in(module):
                ConfigStore.instance().repo["method"].pop(f"{name}.yaml", None)
            registry._forget(module)
        GlobalHydra.instance().clear()


@contextlib.contextmanager
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
