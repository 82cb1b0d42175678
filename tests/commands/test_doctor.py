"""`harness doctor`: what it finds, and what it says about what is not there."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.commands import doctor
from harness.engine import ENGINES


def found() -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.findings()}


def test_every_engine_is_named_with_its_versions_or_with_what_to_type() -> None:
    findings = found()
    assert torch.__version__.partition("+")[0] in findings["engine=native"].detail
    assert "pasted_attribution" in findings["engine=native"].detail
    for name, origin in ENGINES.items():
        package, command = origin.package, origin.install
        finding = findings[f"engine={name}"]
        if importlib.util.find_spec(package) is None:
            assert (finding.state, finding.remedy) == ("missing", command)
        else:
            assert finding.state in ("ok", "broken")


def test_an_engine_that_cannot_be_imported_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that was built for another torch fails on import."""
    if importlib.util.find_spec("detectron2"):
        pytest.skip("detectron2 itself is installed")
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise ImportError('undefined symbol: _ZN2at')")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = found()["engine=detectron2"]
    assert finding.state == "broken"
    assert "undefined symbol" in finding.detail
    assert "git+https" in finding.remedy


def test_slurm_is_missing_where_its_commands_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found()["SLURM"].state == "missing"


def test_slurm_answers_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in doctor.SLURM:
        says = "slurm 23.11.4" if name == "sbatch" else "Slurmctld(primary) at head is UP"
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    finding = found()["SLURM"]
    assert finding.state == "ok"
    assert "23.11.4" in finding.detail


def test_it_prints_commands_on_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert doctor.doctor() == 0
    printed = capsys.readouterr().out.splitlines()
    for finding in found().values():
        if finding.remedy:
            assert f"{finding.subject}: {finding.remedy}" in printed


@pytest.mark.parametrize(("gib", "state"), [(0.06, "broken"), (8.0, "ok")])
def test_little_shared_memory_is_said(gib: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=gib * 2**30))
    finding = doctor._shared_memory(tmp_path)
    assert finding.state == state
    assert ("--shm-size" in finding.remedy) == (state == "broken")
