"""Who may import whom (design: the house). Read from the sources, so that an import inside a function counts too."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ("harness", "methods", "backbones", "reports")
# Rooms, and the files that are rooms of their own, from the bottom up: each imports from those below it alone. The
# conformance kit is the part of `methods` that trains and so stands above the training it uses.
ORDER = (
    "harness.record", "harness.errors", "backbones", "methods", "harness.config", "harness.bounds", "harness.compose",
    "harness.recipes", "harness.console", "harness.data", "harness.weights", "harness.detector", "harness.evaluate",
    "harness.engine", "harness.training", "harness.stages", "methods.conformance", "harness.run", "harness.launch",
    "harness.commands",
    "reports", "harness.cli",
)  # fmt: skip
# They answer at once: a second of loading torch would be most of their time.
QUICK = (
    "harness.cli", "harness.config", "harness.console", "harness.errors", "harness.record.record",
    "harness.record.decisions", "harness.run.claim", "harness.commands.evaluate", "harness.commands.doctor",
    "harness.launch.sweep", "harness.launch.status", "harness.launch.follow", "harness.launch.control", "backbones",
    "reports.command", "reports.compare",
)  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in HOUSE for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """What a file imports, for typing too; a name taken from a module counts as the module that it is, if it is one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= MODULES.keys() else {node.module, *(names & MODULES.keys())}
    return found


@cache
def all_imports() -> dict[str, set[str]]:
    return {name: imports(path) for name, path in MODULES.items()}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def room(module: str) -> str:
    """The innermost room that a module is in."""
    return max((name for name in ORDER if within(module, name)), key=len)


def violations(importers: set[str], forbidden: Callable[[str], bool]) -> list[str]:
    return [f"{name} imports {m}" for name in sorted(importers) for m in sorted(all_imports()[name]) if forbidden(m)]


def in_packages(*packages: str) -> set[str]:
    return {name for name in MODULES if within(name, *packages)}


def test_the_reader_of_imports_sees_those_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "def f():\n    from harness.data import dataset, nothing\n    import reports.table\n    from os import sep"
    )
    assert imports(path) == {"harness.data", "harness.data.dataset", "reports.table", "os"}


def test_every_module_is_in_a_room() -> None:
    empty = {"harness", "harness.conf"}
    assert [name for name in MODULES if name not in empty and not within(name, *ORDER)] == []
    assert [name for name in ORDER if not in_packages(name)] == []
    assert all(not MODULES[name].read_text() for name in empty)


@pytest.mark.parametrize("above", ORDER)
def test_a_room_imports_from_those_below_it_alone(above: str) -> None:
    higher = ORDER[ORDER.index(above) + 1 :]
    importers = {name for name in in_packages(above) if room(name) == above}
    assert violations(importers, lambda m: within(m, *ORDER) and room(m) in higher) == []


def test_no_module_imports_itself_around_a_circle() -> None:
    """Lazily neither, nor for typing alone; CycleError names the modules."""
    own = {name: found & MODULES.keys() for name, found in all_imports().items()}
    order = list(graphlib.TopologicalSorter(own).static_order())
    assert order.index("harness.errors") < order.index("harness.cli")


def test_the_record_imports_nothing_of_the_house_but_itself() -> None:
    record = in_packages("harness.record")
    assert violations(record, lambda m: within(m, *HOUSE) and not within(m, "harness.record")) == []


def test_reports_import_the_record_and_nothing_else_of_the_house() -> None:
    allowed = ("reports", "harness.record")
    assert violations(in_packages("reports"), lambda m: within(m, *HOUSE) and not within(m, *allowed)) == []


def test_methods_import_nothing_of_the_harness_but_in_the_conformance_kit() -> None:
    importers = in_packages("methods") - in_packages("methods.conformance")
    assert violations(importers, lambda m: within(m, *HOUSE) and not within(m, "methods")) == []
    assert violations(importers, lambda m: within(m, "methods.conformance")) == []


def test_backbones_stand_on_torch_torchvision_and_timm_alone() -> None:
    allowed = {"torch", "torchvision", "timm", "numpy", "backbones", *sys.stdlib_module_names}
    assert violations(in_packages("backbones"), lambda m: m.split(".")[0] not in allowed) == []


@pytest.mark.parametrize("framework", ["detectron2", "mmdet", "mmcv", "mmengine"])
def test_a_framework_is_imported_by_its_engine_alone(framework: str) -> None:
    engine = "harness.engine.detectron2" if framework == "detectron2" else "harness.engine.mmdet"
    assert violations(set(MODULES) - in_packages(engine), lambda m: within(m, framework)) == []


def test_only_the_command_line_imports_reports() -> None:
    importers = set(MODULES) - in_packages("reports", "harness.cli")
    assert violations(importers, lambda m: within(m, "reports")) == []


def test_modules_that_must_start_at_once_do_not_load_torch() -> None:
    code = f"""
import importlib, sys
for name in {QUICK}:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{{name}} loads torch")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
