"""Weights of fewer classes in a detector of more: known rows and the background's are taken over, new ones are new."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.weights.classes import extend_classifier
from harness.weights.loading import load_published
from tests.detector.small import small_engine

KNOWN, NEW = 5, 3


def test_rows_of_known_classes_and_the_background_are_taken_over() -> None:
    parent, child = small_engine(KNOWN).module.state_dict(), small_engine(KNOWN + NEW).module.state_dict()
    parent = {name: value + 1 for name, value in parent.items()}
    fitted, sentence = extend_classifier(parent, child)
    for stage in range(2):
        for leaf in ("weight", "bias"):
            name = f"cascade.box_predictor.{stage}.cls_score.{leaf}"
            assert torch.equal(fitted[name][:KNOWN], parent[name][:KNOWN])
            assert torch.equal(fitted[name][KNOWN:-1], child[name][KNOWN:-1])
            assert torch.equal(fitted[name][-1], parent[name][-1])
    others = [name for name in parent if "cls_score" not in name]
    assert all(fitted[name] is parent[name] for name in others)
    assert sentence == "5 classes are kept, 3 new ones are initialised"


def test_nothing_changes_between_equal_detectors() -> None:
    state = small_engine(KNOWN).module.state_dict()
    fitted, sentence = extend_classifier(state, state)
    assert sentence == ""
    assert all(fitted[name] is state[name] for name in state)


def test_a_file_of_fewer_classes_loads_where_new_classes_are_trained(tmp_path: Path) -> None:
    parent = small_engine(KNOWN).module
    torch.save({"model": parent.state_dict()}, tmp_path / "parent.pth")
    child = small_engine(KNOWN + NEW).module
    with pytest.raises(UserError, match=r"data\.num_classes"):
        load_published(child, tmp_path / "parent.pth")
    report = load_published(child, tmp_path / "parent.pth", new_classes=True)
    assert "3 new ones are initialised" in str(report)
    assert torch.equal(
        child.cascade.box_predictor[0].cls_score.weight[:KNOWN],  # type: ignore[union-attr]
        parent.cascade.box_predictor[0].cls_score.weight[:KNOWN],
    )  # type: ignore[union-attr]


def test_a_file_of_more_classes_is_an_error_that_says_how_to_set_them(tmp_path: Path) -> None:
    torch.save({"model": small_engine(KNOWN + NEW).module.state_dict()}, tmp_path / "parent.pth")
    with pytest.raises(UserError, match=r"data\.num_classes"):
        load_published(small_engine(KNOWN).module, tmp_path / "parent.pth", new_classes=True)
