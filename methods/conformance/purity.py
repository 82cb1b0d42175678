"""What a hook must leave alone: clocks, the environment, global generators and settings, files, and module state."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import os
import random
import socket
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from methods.conformance.faults import Fault
from methods.contract import Method

CLOCKS = frozenset(
    getattr(time, name)
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "time_ns", "monotonic_ns")
) | {time.perf_counter_ns, time.process_time_ns, time.localtime, time.gmtime, time.ctime, time.strftime}
MACHINE = frozenset({os.getpid, os.getppid, os.getloadavg, os.cpu_count, os.uname, socket.gethostname})
ENVIRONMENT = frozenset({os._Environ.__getitem__.__code__, os._Environ.__iter__.__code__})
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.")
_STDLIB = str(Path(sysconfig.get_path("stdlib")).resolve())
_LIBRARIES = tuple({str(Path(sysconfig.get_path(n)).resolve()) for n in ("stdlib", "platstdlib", "purelib", "platlib")})
_KIT = (str(Path(__file__).parent), str(Path(__file__).parents[2] / "harness"))


class Watch:
    """Watches a method's hooks, one at a time. Raises Fault at the end of a hook for what it did."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._declared = {str(Path(path).resolve()) for path in method.files().values()}
        own = [cls for cls in type(method).__mro__ if not cls.__module__.startswith(("methods.contract", "builtins"))]
        self._classes = own
        self._modules = {cls.__module__: sys.modules[cls.__module__] for cls in own if cls.__module__ in sys.modules}

    @contextmanager
    def hook(self, name: str) -> Iterator[None]:
        found: list[str] = []
        dtype, graded, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
        settings, state, options = _settings(), self._state(), dataclasses.asdict(self._method)
        _listeners.append(lambda event, args: found.extend(self._of_file(event, args)))
        sys.setprofile(lambda frame, event, arg: found.extend(_of_call(frame, event, arg)))
        try:
            yield
        finally:
            sys.setprofile(None)
            _listeners.pop()
            after = _settings()
            torch.set_default_dtype(dtype)  # so that what comes after judges the method and not this
            torch.set_grad_enabled(graded)
            torch.set_num_threads(threads)
        found += [sentence for sentence, value in settings.items() if after[sentence] != value]
        changed = [where for where, value in self._state().items() if state.get(where, value) != value]
        found += [
            f"keeps state in {where}: other ranks, loader workers and a resumed run have another; keep it in `self`, "
            "made in `start`"
            for where in changed
        ]
        if dataclasses.asdict(self._method) != options:
            found.append("changes an option: make run-time state in `start`, under a name that is not a field's")
        if found:
            raise Fault(f"`{name}` {found[0]}")

    def _state(self) -> dict[str, bytes]:
        """Data in the method's modules, classes and default arguments."""
        places: dict[str, dict[str, Any]] = {module.__name__: vars(module) for module in self._modules.values()}
        places |= {f"class {cls.__name__}": dict(vars(cls)) for cls in self._classes}
        functions = {
            f"the defaults of {cls.__name__}.{name}": value
            for cls in self._classes
            for name, value in vars(cls).items()
            if isinstance(value, FunctionType)
        }
        found = {
            f"{place.split('bsgal_bench_method_')[-1]}.{name}": _digest(value)
            for place, values in places.items()
            for name, value in values.items()
            if not name.startswith("__") and _is_data(value)
        }
        return found | {
            place: _digest([function.__defaults__, function.__kwdefaults__, vars(function)])
            for place, function in functions.items()
        }

    def _of_file(self, event: str, args: tuple[Any, ...]) -> list[str]:
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            return self._of_opening(os.fsdecode(args[0]), args[1], args[2])
        if event.startswith(PROCESSES):
            return ["starts another process or a connection: a run may depend only on what is recorded"]
        if event.startswith(CHANGES):
            return ["changes files: the harness writes a run's files; use `step.log` for values"]
        return []

    def _of_opening(self, path: str, mode: str | None, flags: int | None) -> list[str]:
        full = str(Path(path).resolve())
        if full.startswith((*_LIBRARIES, "/proc", "/dev", "/sys")) or full.endswith((".py", ".pyc", ".so")):
            return []
        if "__pycache__" in full:
            return []
        writes = set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes:
            return ["writes to a file: the harness writes a run's files; use `step.log` for values"]
        if full in self._declared:
            return []
        return [f"reads {Path(path).name}, which `files()` does not name: its contents must count in a run's identity"]


def _settings() -> dict[str, Any]:
    """Global state by the sentence that says what is wrong with changing it."""
    drawn = "draws from or seeds the global generator of {}: use the given `rng` (`step.rng` in `select`)"
    return {
        drawn.format("torch"): torch.get_rng_state().numpy().tobytes(),
        drawn.format("NumPy"): repr(np.random.get_state()),  # noqa: NPY002
        drawn.format("Python"): random.getstate(),
        "changes torch's default dtype: give the `dtype` of each tensor": torch.get_default_dtype(),
        "changes torch's default device: give the `device` of each tensor": torch.get_default_device(),
        "turns gradients on or off for what comes after it: use `with torch.no_grad()`": torch.is_grad_enabled(),
        "changes torch's number of threads, which is the run's": torch.get_num_threads(),
        "changes torch's determinism, which is the run's": torch.are_deterministic_algorithms_enabled(),
        "changes NumPy's handling of errors: use `with np.errstate(...)`": tuple(np.geterr().values()),
        "changes os.environ": tuple(os.environ.items()),
        "changes the working directory": os.getcwd(),
    }


def _of_call(frame: FrameType, event: str, arg: Any) -> list[str]:
    """What is wrong with a call that the method's own code makes, if anything."""
    if event == "c_call":
        try:
            clock, machine = arg in CLOCKS, arg in MACHINE
        except TypeError:  # an unhashable callable
            return []
        today = inspect.isclass(getattr(arg, "__self__", None)) and issubclass(arg.__self__, datetime.date)
        if (clock or (today and arg.__name__ in ("now", "utcnow", "today"))) and _by_the_method(frame):
            return ["reads the clock: a busier machine would decide otherwise; use `step.iteration` or `step.progress`"]
        if machine and _by_the_method(frame):
            return [f"asks for {arg.__name__}, which differs between machines and processes"]
        if arg is os.urandom and _by_the_method(frame):
            return ["makes an unseeded generator: use the given `rng` (`step.rng` in `select`)"]
    elif event == "call":
        if frame.f_code in ENVIRONMENT and _by_the_method(frame):
            return ["reads os.environ, which no record holds: make it an option, a field of the dataclass"]
        if "torch/distributed" in frame.f_code.co_filename and _by_the_method(frame.f_back):
            return ["asks torch.distributed: ranks are the harness's, and share what `step.average` gives"]
    return []


def _by_the_method(frame: FrameType | None) -> bool:
    """Whether the nearest code outside of the standard library is the method's: no library's, and not the kit's."""
    while frame is not None and (
        frame.f_code.co_filename.startswith((_STDLIB, "<frozen")) and "site-packages" not in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return frame is not None and not frame.f_code.co_filename.startswith((*_LIBRARIES, *_KIT))


def _is_data(value: Any) -> bool:
    return not isinstance(value, ModuleType | type | FunctionType | property | classmethod | staticmethod)


def _digest(value: Any, depth: int = 4) -> bytes:
    """Bytes that change when plain data do; empty for all else."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous().numpy().tobytes() if value.device.type != "meta" else b""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if value is None or isinstance(value, int | float | str | bytes):
        return repr(value).encode()
    if depth and isinstance(value, list | tuple | deque):
        return b"[" + b",".join(_digest(each, depth - 1) for each in value) + b"]"
    if depth and isinstance(value, set | frozenset):
        return b"".join(sorted(_digest(each, depth - 1) for each in value))
    if depth and isinstance(value, dict):
        return b",".join(_digest(k, depth - 1) + b":" + _digest(v, depth - 1) for k, v in value.items())
    if depth and hasattr(value, "__dict__") and type(value).__module__.startswith("bsgal_bench_method_"):
        return _digest(vars(value), depth - 1)
    return b""


_listeners: list[Any] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _listeners:
        _listeners[-1](event, args)


sys.addaudithook(_audit)
