"""Faults and calibration in a report, and what it says of runs that are older than they."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.record.matches import read_half_matches
from reports.collect import collect
from reports.faults import KINDS, fault_gains
from reports.page_faults import fault_part
from reports.spec import read_spec
from tests.reports import made_up


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for method, gain in (("copy_paste", 0.0), ("bsgal", 8.0)):
        for seed in (0, 1, 2):
            made = made_up.record(method, seed)
            folder = tmp_path / "runs" / made.run_id
            folder.mkdir(parents=True)
            made_up.write_matches(folder, np.random.default_rng(seed), gain)
            made.metrics = made_up.matched_figures(folder)
            made_up.write_run(tmp_path / "runs", made, np.random.default_rng(0))
    (tmp_path / "two.yaml").write_text("rows: {copy_paste: {}, bsgal: {}}\nbaseline: copy_paste\ncolumns: [AP_mask]")
    return tmp_path


def test_means_over_seeds_and_paired_differences(runs: Path) -> None:
    spec = read_spec(str(runs / "two.yaml"))
    part = fault_part(spec, collect(spec, runs / "runs"))
    assert part is not None
    gains = {}
    for method in ("copy_paste", "bsgal"):
        folders = [runs / "runs" / f"{method}-s{seed}" for seed in (0, 1, 2)]
        found = [fault_gains(matches) for f in folders if (matches := read_half_matches(f, "segm")) is not None]
        gains[method] = pd.DataFrame([each for each in found if each is not None])
    assert [heading.base for heading in part.sheet.headings[1:]] == [*KINDS, "calibration"]
    by_label = {row[0].text: row[1:] for row in part.sheet.rows}
    for place, kind in enumerate(KINDS):
        assert float(by_label["bsgal"][place].sort) == pytest.approx(gains["bsgal"][kind].mean())
        apart = (gains["bsgal"] - gains["copy_paste"])[kind].mean()
        assert by_label["bsgal"][place].difference.replace("−", "-") == f"{apart:+.1f}"
    assert not any(cell.difference for cell in by_label["copy_paste"])


def test_runs_from_before_faults_were_kept_say_so(runs: Path) -> None:
    for path in runs.glob("runs/bsgal-*/matches.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["fault", "truth"]), path)
    spec = read_spec(str(runs / "two.yaml"))
    part = fault_part(spec, collect(spec, runs / "runs"))
    assert part is not None
    bsgal = next(row for row in part.sheet.rows if row[0].text == "bsgal")
    assert [cell.text for cell in bsgal[1:-1]] == ["not kept"] * len(KINDS)
    assert bsgal[-1].sort  # scores are in every matches.parquet
    assert "Left out, because they were evaluated before faults were recorded: bsgal" in part.notes[-1]
