"""Decisions on their way to disk: appended by rank, cut back to a checkpoint, joined after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.record import decision_log
from harness.record.decision_log import DecisionLog, drop_logs, write_decisions
from harness.record.decisions import SCHEMA


def row(iteration: int, rank: int = 0, pool_rows: tuple[int, ...] = (1, 2), accepted: bool = True) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "rank": rank,
        "image": 0,
        "pool_rows": list(pool_rows),
        "categories": [5] * len(pool_rows),
        "contribution": None if iteration % 3 == 0 else iteration / 7,
        "threshold": 0.5,
        "accepted": accepted,
        "decided": iteration % 5 > 0,
    }


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "HELD_ROWS", 4)
    monkeypatch.setattr(decision_log, "GROUP_ROWS", 6)


def test_all_ranks_rows_end_in_one_file_rank_by_rank(tmp_path: Path) -> None:
    rows = [[row(i, rank, pool_rows=tuple(range(i % 4))) for i in range(9 + rank)] for rank in range(2)]
    for rank in (1, 0):
        log = DecisionLog(tmp_path, rank)
        for each in rows[rank]:
            log.append([each])
        log.save()
    clean = np.array([True, False, False])
    write_decisions(tmp_path, 2, clean)
    found = pq.read_table(tmp_path / "decisions.parquet")
    assert found.schema.equals(SCHEMA)
    told = found.drop(["clean_share", "clean", "contributions", "kept", "weights"]).to_pylist()
    assert told == rows[0] + rows[1]
    shares = [clean[each["pool_rows"]].mean() if each["pool_rows"] else None for each in told]
    assert found["clean_share"].to_pylist() == shares
    drop_logs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["decisions.parquet"]


@pytest.mark.parametrize("lost", [0, 1, 3, 5])
def test_a_run_that_goes_on_cuts_off_what_came_after_its_checkpoint(tmp_path: Path, lost: int) -> None:
    log = DecisionLog(tmp_path, 0)
    log.append([row(i) for i in range(6)])
    state = log.save()
    log.append([row(90 + i) for i in range(lost)])  # a life that is killed, some of its rows on disk, some not
    with log.path.open("ab") as file:
        file.write(b"torn" * lost)

    again = DecisionLog(tmp_path, 0)
    again.restore(state)
    assert again.acceptance(since=0) == 1.0
    again.append([row(i, accepted=False) for i in range(6, 11)])
    assert again.acceptance(since=6) == 0.0
    again.save()
    write_decisions(tmp_path, 1, None)
    assert pd.read_parquet(tmp_path / "decisions.parquet").iteration.tolist() == list(range(11))


def test_without_a_checkpoint_it_begins_anew(tmp_path: Path) -> None:
    DecisionLog(tmp_path, 0).append([row(i) for i in range(8)])
    log = DecisionLog(tmp_path, 0)
    log.restore(None)
    log.append([row(3)])
    log.save()
    write_decisions(tmp_path, 1, None)
    assert pd.read_parquet(tmp_path / "decisions.parquet").iteration.tolist() == [3]


def test_rows_that_a_checkpoint_knows_of_and_the_disk_lost_are_missed(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, 0)
    log.append([row(i) for i in range(8)])
    state = log.save()
    log.path.write_bytes(log.path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"rank0.arrow holds \d+ bytes, and the checkpoint knows of \d+"):
        DecisionLog(tmp_path, 0).restore(state)


def test_a_run_without_decisions_leaves_an_empty_table(tmp_path: Path) -> None:
    DecisionLog(tmp_path, 0).save()
    write_decisions(tmp_path, 1, None)
    assert len(pd.read_parquet(tmp_path / "decisions.parquet")) == 0


def test_the_recent_acceptance_survives(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, 0)
    log.append([row(i, accepted=i % 2 == 0) for i in range(1, 5)])
    again = DecisionLog(tmp_path, 0)
    again.restore(log.save())
    assert again.acceptance(since=2) == log.acceptance(since=2) == pytest.approx(2 / 3)
    assert again.acceptance(since=99) is None
