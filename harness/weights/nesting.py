"""How deep tuples lie within one another in a pickle, told without making them: hashing them recurses in C, without an
end but the process's, and torch's own reader takes them for keys of dictionaries."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

DEEPEST = 100
LEGACY_PICKLES = 5  # that files of before torch 1.6 begin with
_MARK = -1
_PUT, _GET = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")


def check_nesting(file: Path | IO[bytes]) -> None:
    """Raises pickle.UnpicklingError for a torch file whose tuples nest deeper than DEEPEST."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as part:
                        _check(part)
        return
    if isinstance(file, Path):
        with file.open("rb") as opened:
            _check_legacy(opened)
    else:
        _check_legacy(file)


def _check_legacy(file: IO[bytes]) -> None:
    file.seek(0)
    for _ in range(LEGACY_PICKLES):
        if not _check(file):
            return


def _check(file: IO[bytes]) -> bool:
    """Goes through one pickle; False where it is none, which its reader finds out."""
    stack: list[int] = []
    memo: dict[Any, int] = {}
    try:
        for code, argument, _ in pickletools.genops(file):
            _step(code, argument, stack, memo)
            if stack and stack[-1] > DEEPEST:
                raise pickle.UnpicklingError(f"tuples nest deeper than {DEEPEST}")
    except (ValueError, IndexError, EOFError):
        return False
    return True


def _step(code: pickletools.OpcodeInfo, argument: Any, stack: list[int], memo: dict[Any, int]) -> None:
    """What an opcode makes of the depths on the stack, of which an object has the greatest of its parts."""
    if code.name == "MARK":
        stack.append(_MARK)
    elif code.name in _PUT:
        memo[len(memo) if argument is None else int(argument)] = stack[-1]
    elif code.name in _GET:
        stack.append(memo.get(int(argument), 0))
    elif code.name == "DUP":
        stack.append(stack[-1])
    else:
        taken = [0]
        before = list(code.stack_before)
        if pickletools.markobject in before:
            while (depth := stack.pop()) != _MARK:
                taken.append(depth)
            before = before[: before.index(pickletools.markobject)]
        taken += [stack.pop() for _ in before]
        made = max(taken) + code.name.startswith("TUPLE")
        stack += [made] * len(code.stack_after)
