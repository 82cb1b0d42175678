"""The recipes that come with the package: the options of the group `recipe`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harness.errors import UserError, nearest

FOLDER = Path(str(files("harness.conf"))) / "recipe"


def recipe_names() -> list[str]:
    """Published ones and the embedded dataset's, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def about(name: str) -> str:
    """What the comment at the head of a recipe says. Raises UserError for a name that is none."""
    if name not in recipe_names():
        raise UserError(f"recipe={name}: no such recipe; {nearest(name, recipe_names())}")
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line)
