"""The picture in docs/explanation/architecture.md is the one that the sources give."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
DRAWING = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))


def test_the_picture_is_of_these_sources() -> None:
    drawn = (ROOT / "docs" / "img" / "architecture.svg").read_text()
    assert drawn == DRAWING["draw"](), "run `python docs/draw_architecture.py`"


def test_arrows_that_follow_from_others_are_left_out() -> None:
    assert DRAWING["reduced"]({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_every_room_says_what_it_is_for() -> None:
    assert [room for room, words in DRAWING["rooms"]().items() if not words] == []
