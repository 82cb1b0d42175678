"""A user's own files with the names of our top-level packages, which would be imported instead of them.

`python -m` puts the working folder before everything that is installed; the command `harness` and the jobs that it
starts leave it out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from harness.errors import UserError

HOME = Path(__file__).resolve().parents[2]
NAMES = ("harness", "methods", "backbones", "reports", "sweeps")


def refuse_hidden(names: Iterable[str] = NAMES) -> None:
    """Raises UserError if Python would import something else for one of `names`; imports none of them."""
    for name in names:
        if name in sys.modules or (spec := PathFinder.find_spec(name)) is None:
            continue  # an editable installation finds its packages by other means
        found = Path(spec.origin or next(iter(spec.submodule_search_locations or [name])))
        if HOME not in found.resolve().parents:
            raise UserError(
                f"{found} hides bsgal-bench's own package `{name}`: rename it, or take its folder off Python's path "
                "(`python -P -m` leaves out the working folder, and so does the command `harness`)"
            )


def in_the_way(folder: Path) -> Iterator[Path]:
    """What `python -m` in a folder would import instead of our packages."""
    if folder.resolve() != HOME:
        for name in NAMES:
            yield from (path for path in (folder / f"{name}.py", folder / name / "__init__.py") if path.exists())
