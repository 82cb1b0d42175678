"""A user's own methods.py in the working folder: commands say so, and what they start does not import it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import doctor
from harness.launch import held

ROOT = Path(__file__).parents[2]


def python(folder: Path, *words: str, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "package"), [("methods.py", "methods"), ("backbones/__init__.py", "backbones")])
def test_a_run_names_the_file_that_hides_a_package(tmp_path: Path, name: str, package: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    done = python(tmp_path, "-m", "harness.run", "--cfg", "job")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / name} hides bsgal-bench's own package `{package}`")
    assert done.stderr.count("\n") == 1
    assert python(tmp_path, "-P", "-m", "harness.run", "--cfg", "job").returncode == 0


def test_a_command_names_a_file_on_python_s_path(tmp_path: Path) -> None:
    (tmp_path / "reports.py").touch()
    done = python(tmp_path, "-P", "-m", "harness.cli", "recipes", path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1
    assert f"{tmp_path / 'reports.py'} hides" in done.stderr


def test_doctor_names_what_would_hide_a_package(tmp_path: Path) -> None:
    assert doctor._working_folder(tmp_path).state == "ok"
    assert doctor._working_folder(ROOT).state == "ok"
    (tmp_path / "sweeps").mkdir()  # a folder of sweep files hides nothing
    assert doctor._working_folder(tmp_path).state == "ok"
    (tmp_path / "harness.py").touch()
    finding = doctor._working_folder(tmp_path)
    assert finding.state == "broken"
    assert str(tmp_path / "harness.py") in finding.detail


def test_a_job_of_slurm_leaves_out_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "methods.py").write_text("raise SystemExit('the user\\'s own')")
    done = python(tmp_path, "-I", "-S", held.__file__, "-c", "import methods; print(methods.__file__)")
    assert done.stdout == f"{ROOT / 'methods' / '__init__.py'}\n", done.stderr
