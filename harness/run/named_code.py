"""Files of code that a record names: a method's, a stage's rule, or an engine's configuration in Python."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.engine.config_files import own_file
from harness.errors import UserError


def is_code(named: Any) -> bool:
    """Whether an engine's configuration, or a stage's rule, is a file that is executed to be read."""
    path = own_file(named) if isinstance(named, str) else None
    return path is not None and path.suffix == ".py"


def refuse_strange_code(run: str, named: Iterable[str], trusted: Iterable[Path]) -> None:
    """Raises UserError, with what to type, for a file that a record names and nobody typed."""
    known = {path.resolve() for path in trusted}
    for text in named:
        path = Path(text).expanduser().resolve()
        if path not in known:
            raise UserError(
                f"{run} executes {path}, which its record names and anyone could have written there: "
                f"read it, then add --trust {shlex.quote(text)}"
            )
