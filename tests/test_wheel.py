"""The wheel holds all that a user needs: installed outside the checkout, it runs a sweep and makes a report."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.small_training import TINY

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "methods", "backbones", "reports", "sweeps")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, since setuptools writes beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        (sources / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist"]
    subprocess.run([*pip, "./sources"], cwd=folder, check=True)
    (path,) = (folder / "dist").glob("bsgal_bench-*.whl")
    return path


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("bsgal_bench-")}
    assert found == expected


@pytest.mark.slow
def test_a_sweep_and_a_report_from_an_empty_folder(wheel: Path, mini_root: Path, tmp_path: Path) -> None:
    """Empty but for a sweep file and a methods.py of the user's own, which nobody imports."""
    site, folder = tmp_path / "site", tmp_path / "user"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    folder.mkdir()
    (folder / "methods.py").write_text("raise SystemExit('not to be imported')\n")
    settings = "".join(f"  - {text}\n" for text in TINY)
    (folder / "small.yaml").write_text(f"defaults:\n{settings}grid:\n  - {{name: baseline, seed: 0}}\nreport: mini\n")

    def harness(*words: str) -> str:
        command = [sys.executable, str(site / "bin" / "harness"), *words]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    assert "14 of 14 runs to do" in harness("sweep", "mini", "--dry-run")
    harness("sweep", "small.yaml", "schedule.iterations=2", "schedule.lr=0.001")
    assert "Baseline" in harness("report", "mini")
    assert (folder / "report" / "mini" / "index.html").is_file()
