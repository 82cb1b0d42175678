"""What is shipped: the sweeps expand, and the page on SLURM names nothing that is not there."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from harness.cli import app
from harness.config import LauncherConfig
from harness.launch import sweepfile
from harness.launch.expand import expand

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("mini", 18),
        ("confidence", 24),
        ("confidence_pools", 30),
        ("mini_backbones", 20),
        ("random_rate", 24),
        ("noise", 48),
        ("bsgal_ablation", 38),
        ("engines_mini", 24),
        ("score_select", 18),
        ("instances", 14),
    ],
)
def test_sweeps_on_the_embedded_dataset_expand(name: str, runs: int, mini_root: Path) -> None:
    sweep = sweepfile.read(sweepfile.find(name))
    found = expand(sweep)
    assert len(found) == runs
    assert all(run.parents or run.name == "baseline" for run in found)
    assert (ROOT / "reports" / f"{sweep.report}.yaml").is_file()


def test_all_shipped_sweeps_can_be_read() -> None:
    paths = sorted((ROOT / "sweeps").glob("*.yaml"))
    assert len(paths) >= 8
    for path in paths:
        assert sweepfile.read(path).description


def test_page_on_slurm_names_what_exists() -> None:
    text = (ROOT / "docs" / "slurm.md").read_text()
    options = set(re.findall(r"\blauncher\.([a-z_]+)", text))
    assert options <= {field.name for field in dataclasses.fields(LauncherConfig)}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("harness ")]
    assert {words[1] for words in lines} >= {"sweep", "status", "logs", "cancel", "retry", "report"}
    for words in lines:
        flags = {flag for option in commands[words[1]].params for flag in option.opts}
        assert {word for word in words[2:] if word.startswith("-")} <= flags, words
