"""Runs by the beginning of their name, and the nearest valid word to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from harness.record.reading import is_name
from harness.record.record import Record, read_record


def find_record(runs: Path, beginning: str) -> Record:
    """The record of a run, by its run_id or by a beginning of it that no other run with a record shares.

    Raises ValueError.
    """
    if (exact := read_record(runs, beginning)) is not None:
        return exact
    names = sorted(name for path in runs.glob("*/record.json") if is_name(name := path.parent.name))
    fitting = [name for name in names if name.startswith(beginning)]
    if len(fitting) > 1:
        raise ValueError(f"several runs in {runs} begin with '{beginning}': {', '.join(fitting[:5])}")
    record = read_record(runs, fitting[0]) if fitting else None
    if record is None:
        raise ValueError(
            f"there is no record of a run '{beginning}' in {runs}; {nearest(beginning, names)} "
            "(`harness status` says how far every run is)"
        )
    return record


def nearest(word: str, valid: Collection[str]) -> str:
    """The end of an error message: the nearest valid word, or the valid ones."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(sorted(valid)[:20]) or 'none'}"
