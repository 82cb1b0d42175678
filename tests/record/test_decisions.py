"""The decision log and the figures that a record keeps of it."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.record.decisions import SCHEMA, decision_statistics


def row(
    accepted: bool, contribution: float | None, clean_share: float | None, decided: bool = True
) -> dict[str, object]:
    return {
        "iteration": 0,
        "rank": 0,
        "image": 0,
        "pool_rows": [1, 2],
        "categories": [0, 0],
        "contribution": contribution,
        "threshold": 0.0,
        "accepted": accepted,
        "decided": decided,
        "clean_share": clean_share,
    }


def statistics(folder: Path, *rows: dict[str, object]) -> dict[str, object]:
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), folder / "decisions.parquet")
    return decision_statistics(folder)


def test_figures_of_a_log_by_hand(tmp_path: Path) -> None:
    found = statistics(
        tmp_path,
        row(True, 0.9, 1.0),
        row(True, 0.2, 0.4),
        row(False, 0.4, 0.8),
        row(False, 0.1, 0.2),
        row(True, -5.0, 0.0, decided=False),
    )
    assert found["decided_images"] == 4
    assert found["acceptance_rate"] == 0.5
    assert found["clean_share_accepted"] == pytest.approx(0.7)
    assert found["clean_share_rejected"] == pytest.approx(0.5)
    # Above the median share lie 1.0 and 0.8, with contributions 0.9 and 0.4; below, 0.2 and 0.1: all four pairs right.
    assert found["decisions_auroc"] == 1.0


def test_a_method_without_contributions_has_no_auroc(tmp_path: Path) -> None:
    found = statistics(tmp_path, row(True, None, 0.5), row(False, None, 1.0))
    assert found == {
        "acceptance_rate": 0.5,
        "decided_images": 2,
        "clean_share_accepted": 0.5,
        "clean_share_rejected": 1.0,
    }


def test_without_decisions_there_are_no_figures(tmp_path: Path) -> None:
    assert decision_statistics(tmp_path) == {}
    assert statistics(tmp_path, row(True, 1.0, 1.0, decided=False)) == {}
    assert isinstance(pd.read_parquet(tmp_path / "decisions.parquet"), pd.DataFrame)
