"""`harness data show`: contact sheets of a dataset, and of what a method makes of its images."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.commands.data_show import show_dataset, show_method
from harness.commands.drawing import contact_sheet, draw_targets
from harness.errors import UserError
from methods.baseline import Baseline
from methods.xpaste import XPaste


def test_contact_sheet_lays_out_images_and_marks_targets() -> None:
    images = [np.full((20, 30, 3), shade, np.uint8) for shade in (10, 90, 170)]
    sheet = contact_sheet(images, ["a", "b", "two\nlines"], columns=2)
    for shade in (10, 90, 170):
        assert (sheet == shade).all(2).sum() >= 600
    with pytest.raises(ValueError, match="captions"):
        contact_sheet(images, ["one"])
    mask = np.zeros((1, 20, 30), np.uint8)
    mask[0, 5:15, 5:25] = 1
    drawn = draw_targets(images[0], masks=mask, zoom=2)
    assert drawn.shape == (40, 60, 3)
    assert (drawn[20, 10] != 20).any()
    assert (drawn[20, 30] == 10).all()
    boxed = draw_targets(images[0], boxes=np.array([[5.0, 5.0, 25.0, 15.0]]), zoom=2, labels=["thing"])
    assert (boxed[20, 10] != 10).any()


def test_a_sheet_of_a_dataset(small, tmp_path: Path) -> None:
    data = small.config(Baseline()).data
    show_dataset(data, 4, tmp_path / "sheet.png")
    written = cv2.imread(str(tmp_path / "sheet.png"))
    assert min(written.shape[:2]) > 500
    with pytest.raises(UserError, match="no_such_pool: neither a file nor a pool"):
        show_dataset(replace(data, pool="no_such_pool"), 4, tmp_path / "sheet.png")


def test_a_sheet_of_any_method(small, tmp_path: Path) -> None:
    for method in (XPaste(), Baseline()):
        out = tmp_path / "sheet" / f"{type(method).__name__}.png"
        show_method(small.config(method), 3, out)
        assert cv2.imread(str(out)).shape[1] > 600
