"""Lists of a JSON file read piece by piece, equal to reading it whole, wherever the pieces are cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.data.lvis import stream
from harness.data.lvis.annotations import Annotations
from harness.data.lvis.parse import read_json
from harness.errors import UserError
from tests.evaluate.made_detections import REAL

TRICKY = {
    "info": {"images": [1, [2]], "text": 'a "quoted" [bracket] {brace} \\'},
    "images": [{"id": 1, "name": '\\"]}', "list": [[1, 2], []]}, {"id": 2, "name": "\\\\"}, {}],
    "licenses": [["images"], {"annotations": []}],
    "annotations": [],
    "categories": [7, "eight", None, [9]],
    "text": "images: [",
}
NAMES = ("images", "annotations", "categories")


def lists(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in NAMES}
    for name, entries in stream.read_lists(path, NAMES):
        found[name] += entries
    return found


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 16, 61, 10_000])
def test_lists_equal_those_of_the_whole(
    piece: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PIECE", piece)
    path = tmp_path / "tricky.json"
    path.write_text(json.dumps(TRICKY, indent=indent))
    assert lists(path) == {name: TRICKY[name] for name in NAMES}


@pytest.mark.parametrize("piece", [1000, 4099])
def test_annotations_do_not_depend_on_the_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_json(REAL)
    monkeypatch.setattr(stream, "PIECE", piece)
    again = read_json(REAL)
    for name in Annotations.array_names():
        one, other = getattr(whole, name), getattr(again, name)
        assert one.dtype == other.dtype
        assert (one == other).all(), name


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"images": [{"id": 1},\n {"id" 2}], "annotations": [], "categories": []}', 2, 8),
        ('{"images": [{"id": 1} {"id": 2}], "annotations": [], "categories": []}', 1, 23),
        ('{"images": [],\n "annotations": [{}], "categories": []', 2, 39),
        ('{"images": [],\n "annotations": [{},', 2, 21),
        ('{"images": [] "annotations": [{}], "categories": []}', 1, 15),
    ],
)
def test_where_the_text_is_wrong_is_said(text: str, line: int, column: int, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"wrong.json: invalid JSON at line") as caught:
        lists(path)
    assert f"line {line}, column {column} of {len(text)} bytes" in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '{"images": 1, "annotations": [], "categories": []}', "{}"])
def test_a_missing_list_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match="has no list 'images'"):
        lists(path)
