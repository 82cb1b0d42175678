"""What is shipped: the sweeps expand."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.launch import sweepfile
from harness.launch.expand import expand

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("mini", 14),
        ("pasting", 10),
        ("confidence", 24),
        ("confidence_pools", 38),
        ("mini_backbones", 48),
        ("random_rate", 24),
        ("noise", 48),
        ("bsgal_ablation", 38),
        ("engines_mini", 30),
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
