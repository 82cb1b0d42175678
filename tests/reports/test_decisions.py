from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports.decisions import agreement, read_decisions, roc


def decisions() -> pd.DataFrame:
    """Ten instances in four images: four clean of ten; the two best images are kept."""
    return pd.DataFrame(
        {
            "contribution": [0.9, 0.5, 0.5, -0.1],
            "clean_share": [1.0, 0.5, 0.0, 0.25],
            "instances": [1, 4, 1, 4],
            "accepted": [True, True, False, False],
            "iteration": [1, 1, 2, 2],
        }
    )


def test_agreement_by_hand() -> None:
    found = agreement(decisions())
    # Clean instances: 1, 2, 0, 1. Bad ones: 0, 2, 1, 3.
    assert found["accepted"] == pytest.approx(5 / 10)
    assert found["clean_accepted"] == pytest.approx(3 / 5)
    assert found["clean_rejected"] == pytest.approx(1 / 5)
    assert found["kept_clean"] == pytest.approx(3 / 4)
    assert found["kept_bad"] == pytest.approx(2 / 6)
    # Of 4 x 6 pairs of a clean and a bad instance: 1*6 + 2*3 + 0 won, 2*3 tied with the bad ones at 0.5, 1*3 tied.
    assert found["auroc"] == pytest.approx((6 + 2 * 3 + 0.5 * (2 * 3 + 1 * 3)) / 24)
    # By clean share: 1*6 won, 2*4 won and 2*2 tied, 1*1 won and 1*3 tied.
    assert found["ceiling"] == pytest.approx((6 + 8 + 1 + 0.5 * (4 + 3)) / 24)


def test_what_shares_a_decision_is_judged_together() -> None:
    batches = decisions().assign(contribution=[0.9, 0.9, -0.1, -0.1])
    # 3 of 5 are clean in the first batch, 1 of 5 in the second: 3*4 pairs won, 3*2 and 1*4 tied.
    assert agreement(batches)["ceiling"] == pytest.approx((3 * 4 + 0.5 * (3 * 2 + 1 * 4)) / 24)


def test_roc_passes_equal_contributions_together() -> None:
    curve = roc(decisions())
    assert curve is not None
    np.testing.assert_allclose(curve.x, [0, 0, 3 / 6, 1])
    np.testing.assert_allclose(curve.y, [0, 1 / 4, 3 / 4, 1])


def test_without_truth_or_contribution_there_is_nothing_to_say() -> None:
    assert agreement(decisions().assign(clean_share=np.nan)) == {}
    assert roc(decisions().assign(contribution=np.nan)) is None
    assert np.isnan(agreement(decisions().assign(contribution=np.nan))["auroc"])


def test_reading_leaves_out_what_was_not_decided(tmp_path: Path) -> None:
    columns = {
        "iteration": [1, 2, 3],
        "pool_rows": [[1, 2], [3], []],
        "contribution": pa.array([0.1, None, None], pa.float64()),
        "accepted": [True, True, False],
        "decided": [True, False, True],
    }
    pq.write_table(pa.table(columns), tmp_path / "decisions.parquet")
    found = read_decisions(tmp_path)
    assert found is not None
    assert list(found["iteration"]) == [1, 3]
    assert list(found["instances"]) == [2, 0]
    assert found["clean_share"].isna().all()
    assert read_decisions(tmp_path / "nowhere") is None
