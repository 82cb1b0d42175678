"""What `harness methods new NAME` writes: a working method and its test."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from methods import registry

METHOD = Template('''\
"""$title: say here what it does and where it comes from."""

from dataclasses import dataclass

import torch

from methods.contract import LossKind, Need, Selection, Step, ViewKind
from methods.registry import register
from methods.xpaste import PoolPasting


@register("$name")
@dataclass
class $cls(PoolPasting):
    """Accepts pasted batches whose pasted classification loss is at most `limit`."""

    needs = frozenset({Need.PASTED_ATTRIBUTION})

    limit: float = 1.0

    def select(self, step: Step) -> Selection:
        if not step.any_pasted:  # trained as it is, and counted in no acceptance rate
            return Selection(keep=torch.ones_like(step.has_pasted), decided=False)
        loss = step.losses(ViewKind.AUGMENTED).pasted_total(LossKind.CLASSIFICATION)
        keep = (loss <= self.limit).expand(len(step.has_pasted))
        return Selection(keep=keep, contribution=-loss, threshold=-self.limit)
''')

TEST = Template("""\
from pathlib import Path

from methods import find, load_file
from methods.conformance import check_method

load_file(Path(__file__).with_name("$name.py"))


def test_conforms() -> None:
    check_method("$name")


def test_its_options_reach_it() -> None:
    assert find("$name")(limit=2.0).limit == 2.0
""")


def new_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Writes `folder`/NAME.py and `folder`/test_NAME.py.

    Raises ValueError for a name that is not a lower-case identifier or is taken, and FileExistsError rather than
    overwriting a file.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a method's name is lower-case letters, digits and underscores, not {name!r}")
    if name in registry.names():
        raise ValueError(f"there is a method {name} already: choose another name")
    words = name.split("_")
    values = {"name": name, "cls": "".join(word.capitalize() for word in words), "title": " ".join(words).capitalize()}
    method, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (method, test):
        if path.exists():
            raise FileExistsError(f"{path} already exists, and is not overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        method.write_text(METHOD.substitute(values))
        test.write_text(TEST.substitute(values))
    except OSError:
        for path in (method, test):
            path.unlink(missing_ok=True)
        raise
    return method, test
