"""The embedded dataset's detector and schedule are not trained on another dataset by mistake."""

from __future__ import annotations

import pytest

from harness.compose import compose
from harness.errors import UserError
from harness.run.unmeant import refuse_unmeant


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=lvis_v1"], ["detector=small and schedule=mini", "recipe=baseline_r50"]),
        (["data=lvis_v1", "method=bsgal", "backbone=swin_l"], ["recipe=bsgal_swin_l"]),
        (["data=lvis_v1", "detector=centernet2"], ["schedule=mini is made for data=mini"]),
        (["data=lvis_v1", "schedule=paper"], ["detector=small is"]),
        (["data=lvis_v1", "schedule.iterations=9", "method=loss_band"], ["schedule=mini", "recipe=baseline_r50"]),
        (["data=lvis_v1", "engine=mmdet"], ["schedule=mini is"]),
        (["data=lvis_v1", "train=false", "weights=x"], ["detector=small is"]),
        (["recipe=bsgal_r50", "data.name=other", "schedule=base_r50", "detector=small"], []),
        (["data=lvis_v1", "detector=small", "schedule=mini"], []),
        (["data=lvis_v1", "engine=detectron2", "schedule=paper"], []),
        (["data=lvis_v1", "engine=mmdet", "train=false", "weights=x"], []),
        (["recipe=mini_paste", "data=lvis_v1"], []),
        (["recipe=xpaste_r50"], []),
        ([], []),
    ],
)
def test_what_nobody_means_is_refused_in_a_sentence(overrides: list[str], words: list[str]) -> None:
    composed = compose(overrides)
    if not words:
        refuse_unmeant(composed)
        return
    with pytest.raises(UserError) as caught:
        refuse_unmeant(composed)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
