"""What seeds can show, against figures worked out otherwise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from reports.power import Noise, noise_of, power_command, seeds_needed, sentence, smallest_shown
from reports.spec import COLUMNS
from reports.statistics import ImagePart, differences
from reports.text import escape_markdown

APR = COLUMNS["APr_mask"]


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_smallest_difference_is_shown_in_four_cases_of_five(seeds: int) -> None:
    shown = smallest_shown(Noise(APR, 4.0, 10, None, seeds), seeds)
    values = np.random.default_rng(0).normal(shown, 2.0, (20_000, seeds))
    found = differences(list(values), [None] * len(values), 0.95)
    assert np.mean([each.p <= 0.05 for each in found if each]) == pytest.approx(0.8, abs=0.01)


def test_noise_is_pooled_by_degrees_of_freedom() -> None:
    pairs = [np.array([1.0, 3.0]), np.array([0.0, 0.0, 3.0]), np.array([5.0])]
    found = [each for each in differences(pairs, [ImagePart(0.7, 0.4, 9.0), None, None], 0.95) if each]
    noise = noise_of(APR, found)
    assert noise is not None
    assert noise.seeds == pytest.approx((1 * 2.0 + 2 * 3.0) / 3)
    assert noise.freedom == 3
    assert noise.images == pytest.approx(0.7 - 0.4 / 2)
    assert noise_of(APR, found[2:]) is None


def test_seeds_needed_are_the_fewest_and_images_set_a_limit() -> None:
    noise = Noise(APR, 1.0, 10, 0.02, 3)
    needed = seeds_needed(noise)
    assert needed is not None
    assert smallest_shown(noise, needed) <= 1.0 < smallest_shown(noise, needed - 1)
    limited = Noise(APR, 1.0, 10, 0.25, 3)  # 2.8 standard errors of 0.5 by the images alone
    assert seeds_needed(limited) is None
    assert "no number of seeds can show +1 AP_r^mask on these validation images" in sentence(limited)
    assert smallest_shown(Noise(APR, 0.0, 10, 0.25, 3), 200) == pytest.approx(0.5 * (1.95996 + 0.84162), rel=1e-3)
    assert math.isclose(smallest_shown(Noise(APR, 0.0, 1, 0.0, 2), 2), 0.0)


def test_the_command_and_the_line_below_a_table_say_the_same(mini: Path) -> None:
    runs = mini.parent / "runs"
    shown = CliRunner().invoke(app, ["power", "mini", "--runs", str(runs)])
    assert shown.exit_code == 0
    said = shown.output.splitlines()
    assert escape_markdown(said[0]) in (mini / "table.md").read_text()
    assert len(said) == 6
    dry = CliRunner().invoke(app, ["sweep", "mini", "--dry-run", f"runs_dir={runs}"])
    assert said[0] in dry.output
    with pytest.raises(ValueError, match="no row of the report noise has two complete seeds"):
        power_command("noise", runs)
