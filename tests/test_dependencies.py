"""The page of dependencies names what pyproject.toml declares, and the packages import what they declare."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"harness", "methods", "backbones", "reports", "sweeps", "tests"}


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def declared(requirements: list[str]) -> set[str]:
    return {distribution(text) for text in requirements} - {PROJECT["name"]}


def table(heading: str | None) -> list[list[str]]:
    """The cells of the table below a heading, or at the page's head, without the names of its columns."""
    part = PAGE.split(f"## {heading}\n")[1] if heading else PAGE
    lines = part.split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")][2:]


def imported() -> set[str]:
    """Top-level modules that the packages import, frameworks of engines and trackers excepted."""
    found: set[str] = set()
    for path in (path for package in OWN - {"tests"} for path in (ROOT / package).rglob("*.py")):
        if "engine/detectron2" in str(path) or "engine/mmdet" in str(path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - OWN - set(sys.stdlib_module_names)


def test_the_page_has_every_dependency_and_no_other() -> None:
    assert declared([row[0] for row in table(None)]) == declared(PROJECT["dependencies"])
    assert all(len(row) == 3 and all(row) for row in table(None))


def test_the_page_has_every_extra() -> None:
    found: dict[str, set[str]] = {}
    for extra, packages, *_ in table("Extras"):
        found.setdefault(extra.strip("`"), set()).update(packages.lower().replace("_", "-").split(", "))
    extras = {name: declared(texts) for name, texts in PROJECT["optional-dependencies"].items()}
    assert found == extras


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    of_module = packages_distributions()
    optional = set().union(*(declared(texts) for texts in PROJECT["optional-dependencies"].values()))
    needed = set()
    for module in imported():
        names = {distribution(name) for name in of_module.get(module, [])}
        needed |= names & declared(PROJECT["dependencies"]) or names - optional
    needed -= {"pydantic-core"}  # pydantic's own, of the same version
    assert needed == declared(PROJECT["dependencies"])
