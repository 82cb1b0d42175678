"""Who may import whom (design: the house). Read from the sources, so that an import inside a function counts too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = {"harness", "methods", "backbones", "reports"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def violations(paths: list[Path], forbidden: object) -> list[str]:
    return [f"{p.relative_to(ROOT)} imports {m}" for p in paths for m in sorted(imports(p)) if forbidden(m)]  # type: ignore[operator]


def test_the_reader_of_imports_sees_those_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from harness.data import lvis\n    import reports.table\n")
    assert {"harness.data", "harness.data.lvis", "reports.table"} <= imports(path)


def test_reports_import_the_record_and_nothing_else_of_the_harness() -> None:
    def forbidden(module: str) -> bool:
        own = within(module, "harness.record") or module == "harness"
        return any(within(module, p) for p in ("harness", "methods", "backbones")) and not own

    assert violations(sources("reports"), forbidden) == []


def test_methods_do_not_import_the_harness() -> None:
    paths = [p for p in sources("methods") if "conformance" not in p.parts]
    assert violations(paths, lambda m: any(within(m, p) for p in HOUSE - {"methods"})) == []


def test_backbones_stand_on_torch_torchvision_and_timm_alone() -> None:
    allowed = {"torch", "torchvision", "timm", "numpy", "backbones", *sys.stdlib_module_names}
    assert violations(sources("backbones"), lambda m: m.split(".")[0] not in allowed) == []


@pytest.mark.parametrize("framework", ["detectron2", "mmdet", "mmcv", "mmengine"])
def test_a_framework_is_imported_by_its_engine_alone(framework: str) -> None:
    name = "detectron2" if framework == "detectron2" else "mmdet"
    paths = [p for package in HOUSE for p in sources(package) if p.parent != ROOT / "harness/engine" / name]
    assert violations(paths, lambda m: within(m, framework)) == []


def test_only_the_command_line_imports_reports() -> None:
    paths = [p for package in HOUSE - {"reports"} for p in sources(package) if p != ROOT / "harness/cli.py"]
    assert violations(paths, lambda m: within(m, "reports")) == []


@pytest.mark.parametrize(
    "module",
    [
        "harness.cli",
        "harness.record.record",
        "harness.config",
        "harness.commands.evaluate",
        "harness.launch.status",
        "reports.command",
    ],
)
def test_modules_that_must_start_at_once_do_not_load_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
