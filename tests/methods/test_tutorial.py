"""docs/tutorials/first-method.md and the guide after it, done as they are written: files, commands, the package."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests import pages
from tests.pages import DOCS, ROOT

FIRST = (DOCS / "tutorials" / "first-method.md").read_text()
GUIDE = (DOCS / "how-to" / "method-features.md").read_text()
FURTHER = [section for section in re.split(r"^(?=## )", GUIDE, flags=re.MULTILINE) if pages.files(section)]
SHORTER = [
    ("schedule.iterations=8", "schedule.iterations=2"),
    ("evaluation.limit=20", "evaluation.limit=2"),
    ("--per-category 4", "--per-category 1"),
    ("stage.size: 64", "stage.size: 32"),
]


def files(text: str = FIRST) -> dict[str, str]:
    return pages.files(text)


def commands(text: str = FIRST) -> list[str]:
    lines = pages.commands(text)
    assert all(line.startswith("harness ") for line in lines)
    return lines


def title(chapter: str) -> str:
    return chapter.split("\n")[0].removeprefix("## ")


def shortened(text: str) -> str:
    for long, short in SHORTER:
        text = text.replace(long, short)
    return text


def run(arguments: list[str], python: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        [python, "-m", "harness.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_method_is_under_30_lines() -> None:
    assert set(files()) == {"keep_easy.py", "easy.yaml", "easy_report.yaml", "pyproject.toml"}
    assert len(files()["keep_easy.py"].splitlines()) < 30


@pytest.mark.parametrize("chapter", FURTHER, ids=title)
def test_a_chapters_methods_are_short_and_import_nothing_private(chapter: str) -> None:
    for name, body in files(chapter).items():
        if name.endswith(".py"):
            assert len(body.splitlines()) <= 60
            assert not re.search(r"^(from|import) .*\b_", body, re.MULTILINE)
            imported = re.findall(r"^(?:from|import) ([a-z]+)", body, re.MULTILINE)
            assert set(imported) <= {"methods", "torch", "numpy", *sys.stdlib_module_names}


@pytest.mark.slow
@pytest.mark.usefixtures("mini_root")
@pytest.mark.parametrize("chapter", FURTHER, ids=title)
def test_a_chapters_commands_run(chapter: str, tmp_path: Path) -> None:
    for name, body in files(chapter).items():
        (tmp_path / name).write_text(shortened(body))
    assert commands(chapter)
    for command in commands(chapter):
        run(shlex.split(shortened(command))[1:], sys.executable, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("mini_root")
def test_every_command_runs_in_the_order_it_is_written(tmp_path: Path) -> None:
    for name, body in files().items():
        (tmp_path / name).write_text(shortened(body))
    *local, of_package = commands()
    for command in local:
        run(shlex.split(shortened(command))[1:], sys.executable, tmp_path)
    assert (tmp_path / "report" / "easy_report" / "index.html").is_file()
    assert "Keep easy" in (tmp_path / "report" / "easy_report" / "table.md").read_text()
    assert (tmp_path / "best_and_worst.png").is_file()

    python = installed_apart(tmp_path)
    assert "limit=1.0" in run(shlex.split(of_package)[1:], python, tmp_path / "elsewhere")
    short = ["schedule.iterations=1", "evaluation.limit=1", "data.workers=1"]
    run(["run", "method=keep_easy", "data.pool=half_bad", *short], python, tmp_path / "elsewhere")


def installed_apart(folder: Path) -> str:
    """The interpreter of a new environment into which pip has put the tutorial's package; ours lies beside it."""
    package = folder / "package"
    package.mkdir()
    for name in ("keep_easy.py", "pyproject.toml"):
        (package / name).write_text(files()[name])
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", str(package)], check=True)
    (folder / "elsewhere").mkdir()
    return str(python)
