"""What runs leave beside their records: evaluated matches, decisions, pictures, losses, as anyone may have written
them. Read, or refused in a sentence; a report is of the other runs all the same."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from harness.record.decisions import decision_statistics, read_decisions, read_pasted
from harness.record.learning_curve import read_curve
from harness.record.matches import read_half_matches, read_matches
from harness.record.reading import Damaged
from reports.decisions import agreement
from reports.faults import calibration, fault_gains
from reports.figure import category_ap
from reports.figure_learning import read_losses
from reports.images import image_influence
from reports.page_pairs import gallery_with_pictures
from tests.fuzz.hostile import changed, changed_bytes, fuzz, refused
from tests.reports import made_up

pytestmark = pytest.mark.timeout(600)
TABLES = ("matches.parquet", "ground_truth.parquet", "per_category.parquet", "decisions.parquet")


def _write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    made_up.write_matches(folder, rng, 1.0, images=6, count=6)
    made_up.write_categories(folder, rng, made_up.matched_figures(folder), 6)
    made_up.write_decisions(folder, rng, contributes=True, steps=2)
    made_up.write_pictures(folder, rng, judges=True)
    made_up.write_metrics(folder, rng, 200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("left") / "run"
    _write(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def all_tables(folder: Path) -> None:
    for iou in ("bbox", "segm"):
        if (half := read_half_matches(folder, iou)) is not None:
            fault_gains(half)
            calibration(half)
        if (ranked := read_matches(folder, iou)) is not None:
            image_influence(ranked)
        category_ap(folder, iou)
    decision_statistics(folder)
    if (decisions := read_decisions(folder)) is not None:
        agreement(decisions)
    read_pasted(folder)


@contextmanager
def _in_place(path: Path, content: bytes) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


@fuzz(40, st.sampled_from(TABLES), st.data())
def test_bytes_of_tables(folder: Path, whole: dict[str, bytes], name: str, data: st.DataObject) -> None:
    with _in_place(folder / name, data.draw(changed_bytes(whole[name]))), refused(str(folder), Damaged):
        all_tables(folder)


CELLS: list[Any] = [
    0, -1, 1, 6, 2**15, 2**31 - 1, 2**31, 2**62, 0.5, -1.0, 2.0, float("nan"), float("inf"), None, "", "r", "x" * 3000,
    "[/x]", True, [], [1], [-1, 2**62], [None], [0.5], {"x": 1},
]  # fmt: skip


@st.composite
def changed_table(draw: st.DrawFn, content: bytes) -> pa.Table:
    """A column, or one cell of it, of another value; a column or the notes beside them left out; rows moved."""
    table = pq.read_table(io.BytesIO(content))
    name = draw(st.sampled_from(table.column_names))
    place, value = table.column_names.index(name), draw(st.sampled_from(CELLS))
    action = draw(st.sampled_from(["cell", "cell", "cell", "column", "drop", "notes", "number", "rows"]))
    if action == "cell":
        cells = table[name].to_pylist()
        cells[draw(st.integers(0, len(cells) - 1))] = value
        try:
            return table.set_column(place, name, pa.array(cells))
        except (pa.ArrowException, OverflowError, TypeError):
            action = "column"
    if action == "column":
        return table.set_column(place, name, pa.array([value] * len(table)))
    if action == "drop":
        return table.drop_columns([name])
    if action == "rows":
        return table.take(pa.array(draw(st.lists(st.integers(0, len(table) - 1), max_size=30)), pa.int64()))
    number = draw(st.sampled_from(["-1", "0", "3", str(10**7), str(10**30), "x", ""]))
    return table.replace_schema_metadata({"images": number, "categories": number} if action == "number" else None)


def _encoded(table: pa.Table) -> bytes:
    file = io.BytesIO()
    try:
        pq.write_table(table, file)
    except pa.ArrowException:  # of a type that Parquet has not
        return b""
    return file.getvalue()


@fuzz(80, st.sampled_from(TABLES), st.data())
def test_cells_of_tables(folder: Path, whole: dict[str, bytes], name: str, data: st.DataObject) -> None:
    with _in_place(folder / name, _encoded(data.draw(changed_table(whole[name])))), refused(str(folder), Damaged):
        all_tables(folder)


@fuzz(30, st.data())
def test_pictures_and_curves(folder: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    for path, read in (
        (folder / "gallery" / "gallery.json", gallery_with_pictures),
        (folder / "learning_curve.json", read_curve),
    ):
        content = json.dumps(data.draw(changed(json.loads(whole[path.name])))).encode()
        with _in_place(path, content), refused(str(folder), Damaged):
            read(folder)
    path = folder / "metrics.jsonl"
    with _in_place(path, data.draw(changed_bytes(whole[path.name]))), refused(str(path), Damaged):
        assert read_losses(path).shape[1] == 2
