from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reports.decisions import AGREEMENT, agreement


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
    assert list(found) == [column.key for column in AGREEMENT]
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


def test_without_truth_or_contribution_there_is_nothing_to_say() -> None:
    assert agreement(decisions().assign(clean_share=np.nan)) == {}
    found = agreement(decisions().assign(contribution=np.nan))
    assert found["kept_clean"] == pytest.approx(3 / 4)
    assert np.isnan([found["auroc"], found["ceiling"]]).all()
