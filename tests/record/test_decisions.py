"""The decision log, the figure that a record keeps of it, and how it agrees with the hidden truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy  # loads what is used of it when that is used

from harness.record.decision_log import DecisionLog
from harness.record.decision_log import write_decisions as join_logs
from harness.record.decisions import (
    ceiling,
    clean_and_bad,
    contribution_roc,
    decision_statistics,
    read_decisions,
    read_pasted,
    roc,
)

CLEAN = np.array([True, False, True, False])  # by pool row


def row(
    pool_rows: list[int], accepted: bool, contribution: float | None = None, decided: bool = True, **single: list[Any]
) -> dict[str, Any]:
    return {
        "iteration": 0,
        "rank": 0,
        "image": 0,
        "pool_rows": pool_rows,
        "categories": [7 + row for row in pool_rows],
        "contribution": contribution,
        "threshold": 0.0,
        "accepted": accepted,
        "decided": decided,
        **single,
    }


def write_decisions(folder: Path, rows: list[dict[str, Any]], clean: np.ndarray | None) -> None:
    log = DecisionLog(folder, 0)
    log.append(rows)
    log.save()
    join_logs(folder, 1, clean)


# ------------------------------------------------------------------------------------------------- on disk


def test_what_was_decided_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [row([0, 1, 0], True, 0.9), row([3], True, -5.0, decided=False), row([], False, 0.5), row([2, 3], False)]
    write_decisions(tmp_path, rows, CLEAN)
    decisions = read_decisions(tmp_path)
    assert decisions is not None
    assert decisions["contribution"].tolist() == pytest.approx([0.9, 0.5, np.nan], nan_ok=True)
    assert decisions["accepted"].tolist() == [True, False, False]
    assert decisions["instances"].tolist() == [3, 0, 2]
    assert decisions["clean_share"].tolist() == pytest.approx([2 / 3, np.nan, 1 / 2], nan_ok=True)
    pasted = read_pasted(tmp_path)
    assert pasted is not None
    assert pasted["pool_row"].tolist() == [0, 1, 0, 2, 3]
    assert pasted["category"].tolist() == [7, 8, 7, 9, 10]
    assert pasted["contribution"].tolist() == pytest.approx([0.9, 0.9, 0.9, np.nan, np.nan], nan_ok=True)
    assert pasted["accepted"].tolist() == [True, True, True, False, False]


def test_decisions_about_single_instances_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [
        row([0, 1], True, 0.9),
        row([2, 3, 0], True, contributions=[0.5, 0.1, 0.7], kept=[True, False, True]),
        row([1], True, contributions=[0.3], weights=[0.25]),
        row([], True, contributions=[], kept=[]),
    ]
    write_decisions(tmp_path, rows, CLEAN)
    decisions = read_decisions(tmp_path)
    assert decisions is not None
    assert decisions["contribution"].tolist() == [0.9, 0.5, 0.1, 0.7, 0.3]
    assert decisions["accepted"].tolist() == [True, True, False, True, True]
    assert decisions["instances"].tolist() == [2, 1, 1, 1, 1]
    assert decisions["clean_share"].tolist() == [0.5, 1, 0, 1, 0]
    pasted = read_pasted(tmp_path)
    assert pasted is not None
    assert pasted["pool_row"].tolist() == [0, 1, 2, 3, 0, 1]
    assert pasted["contribution"].tolist() == [0.9, 0.9, 0.5, 0.1, 0.7, 0.3]
    assert pasted["accepted"].tolist() == [True, True, True, False, True, True]
    # Five decisions of which one rejected.
    assert decision_statistics(tmp_path) == {"acceptance_rate": 4 / 5}


def test_a_record_keeps_the_acceptance_rate_of_what_was_decided(tmp_path: Path) -> None:
    rows = [row([0], accepted) for accepted in (True, False, False, True, True)]
    rows.append(row([0], True, decided=False))
    write_decisions(tmp_path, rows, None)
    assert decision_statistics(tmp_path) == {"acceptance_rate": 3 / 5}


def test_without_decisions_there_is_nothing_to_read_and_nothing_to_keep(tmp_path: Path) -> None:
    write_decisions(tmp_path, [row([0], True, 1.0, decided=False)], CLEAN)
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert read_decisions(folder) is None
        assert read_pasted(folder) is None
        assert decision_statistics(folder) == {}


def test_a_pool_without_truth_leaves_the_clean_share_open(tmp_path: Path) -> None:
    write_decisions(tmp_path, [row([0, 1], True, 1.0), row([2], False, 0.5)], None)
    decisions = read_decisions(tmp_path)
    assert decisions is not None
    assert decisions["clean_share"].isna().all()
    assert contribution_roc(decisions) is None
    assert ceiling(decisions) is None


# ------------------------------------------------------------------------------------------------- agreement


def logged(**columns: list[float]) -> pd.DataFrame:
    """Ten instances in four images, four of them clean: by image 1, 2, 0, 1 clean and 0, 2, 1, 3 bad."""
    known: dict[str, Any] = {
        "iteration": [1, 1, 2, 2],
        "rank": [0, 0, 0, 0],
        "contribution": [0.9, 0.5, 0.5, -0.1],
        "clean_share": [1.0, 0.5, 0.0, 0.25],
        "instances": [1, 4, 1, 4],
    }
    return pd.DataFrame(known | columns)


def test_roc_of_single_scores_by_hand() -> None:
    curve = roc([3.0, 1.0, 2.0, np.nan], [True, True, False, False], [False, False, True, True])
    assert curve is not None
    assert curve.auroc == 0.5  # of the pairs (3, 2) and (1, 2) one is won
    assert curve.good.tolist() == [0, 0.5, 0.5, 1]
    assert curve.bad.tolist() == [0, 0, 1, 1]
    tied = roc([1.0, 1.0], [True, False], [False, True])
    assert tied is not None
    assert tied.auroc == 0.5
    assert roc([1.0], [True], [False]) is None
    assert roc([np.nan, 1.0], [True, False], [False, True]) is None
    assert roc([], [], []) is None


def test_every_pasted_instance_counts_with_its_images_contribution() -> None:
    curve = contribution_roc(logged())
    assert curve is not None
    # Thresholds at 0.9, at 0.5 (two images at once) and at -0.1.
    np.testing.assert_allclose(curve.bad, [0, 0, 3 / 6, 1])
    np.testing.assert_allclose(curve.good, [0, 1 / 4, 3 / 4, 1])
    # Of 4 x 6 pairs of a clean and a bad instance: 1*6 + 2*3 won, 2*3 tied at 0.5 and 1*3 at -0.1.
    assert curve.auroc == pytest.approx((6 + 2 * 3 + 0.5 * (2 * 3 + 1 * 3)) / 24)


def test_auroc_is_mann_whitneys_u_over_the_pairs() -> None:
    rng = np.random.default_rng(5)
    instances = rng.integers(1, 9, 200)
    share = rng.binomial(instances, 0.4) / instances
    decisions = pd.DataFrame(
        {"contribution": rng.normal(share, 0.5).round(1), "clean_share": share, "instances": instances}
    )
    clean, bad = (np.repeat(decisions["contribution"], n.round().astype(int)) for n in clean_and_bad(decisions))
    curve = contribution_roc(decisions)
    assert curve is not None
    assert curve.auroc == pytest.approx(
        scipy.stats.mannwhitneyu(clean, bad).statistic / (len(clean) * len(bad)), abs=1e-12
    )


def test_the_ceiling_of_decisions_by_image() -> None:
    # Judged by their clean share: 1*6 pairs won; 2*4 won and 2*2 tied; 1*1 won and 1*3 tied.
    assert ceiling(logged(contribution=[0.4, 0.3, 0.2, 0.1])) == pytest.approx((6 + 8 + 1 + 0.5 * (4 + 3)) / 24)


def test_what_shares_a_decision_is_judged_together() -> None:
    # 3 of 5 are clean in the first batch, 1 of 5 in the second: 3*4 pairs won, 3*2 and 1*4 tied.
    batches = logged(contribution=[0.9, 0.9, -0.1, -0.1])
    assert ceiling(batches) == pytest.approx((3 * 4 + 0.5 * (3 * 2 + 1 * 4)) / 24)
    # Two ranks that decide as one share a contribution; the same one in another step is another decision.
    assert ceiling(batches.assign(rank=[0, 1, 0, 1])) == ceiling(batches)
    assert ceiling(batches.assign(contribution=0.9)) == ceiling(batches)


def test_without_truth_or_contribution_there_is_nothing_to_say() -> None:
    for unknown in ("contribution", "clean_share"):
        nothing = logged(**{unknown: [np.nan] * 4})
        assert contribution_roc(nothing) is None
        assert ceiling(nothing) is None
