"""Rows over several settings, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.record.record import write_record
from reports.collect import collect
from reports.command import report_command
from reports.spec import read_spec
from reports.summary import critical_difference, find_standings, improvement, interquartile_mean, stratified
from tests.reports.made_up import record

SPEC = """
rows: {a: {}, b: {}, c: {}}
group: {backbone: {x: X, y: Y}}
columns: [AP_box]
baseline: a
"""
# By backbone and row, two seeds each: b is always best, a and c change places.
FIGURES = {"x": {"a": (40, 41), "b": (45, 46), "c": (39, 40)}, "y": {"a": (30, 31), "b": (34, 36), "c": (33, 32)}}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    for backbone, rows in FIGURES.items():
        for name, values in rows.items():
            for seed, value in enumerate(values):
                made = record(name, seed, {"bbox": {"AP": float(value)}}, {"backbone": backbone})
                write_record(tmp_path / "runs", made)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def test_ranks_probabilities_and_gains_by_hand(spec: Path) -> None:
    read = read_spec(str(spec))
    found = find_standings(read, collect(read, spec.parent / "runs"))
    assert found is not None
    rows = {row.key: row for row in found.rows}
    assert {key: row.rank for key, row in rows.items()} == {"a": 2.5, "b": 1.0, "c": 2.5}
    assert rows["a"].better is None
    assert rows["b"].better is not None
    assert rows["c"].better is not None
    assert rows["b"].better.value == 1.0
    assert rows["c"].better.value == pytest.approx((0.5 / 4 + 1.0) / 2)  # 40 ties with 40 in one of four pairs
    assert rows["b"].gain is not None
    assert rows["b"].gain.value == pytest.approx(5.0)  # the middle half of 5, 5, 4, 5
    assert rows["b"].gain.low < 5.0 <= rows["b"].gain.high


def test_the_critical_difference_is_nemenyis() -> None:
    assert critical_difference(4, 14) == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, rel=1e-3)  # Demšar's q


def test_every_format_shows_the_summary(spec: Path) -> None:
    folder = report_command(str(spec), spec.parent / "runs", ["html", "md"], spec.parent / "report")
    for name in ("index.html", "table.md"):
        text = (folder / name).read_text()
        assert "Over all settings" in text
        assert "over 2 settings" in text


def test_the_bootstrap_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        pairs = [rng.normal([[1.0 + level], [level]], 1.5, (2, 3)) for level in (0.0, 10.0)]
        found = stratified(pairs, interquartile_mean, 0.95)
        held.append(found.low <= 1.0 <= found.high)
    assert 0.91 <= np.mean(held) <= 0.99
    assert improvement([np.array([[1.0, 2.0], [2.0, 0.0]])]) == pytest.approx((0 + 1 + 0.5 + 1) / 4)
