"""Detections in and out of files."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data.lvis.cache import load_annotations
from harness.errors import UserError
from harness.evaluate import Detections, evaluate
from tests.evaluate.made_detections import REAL, make_results

EVERYTHING = ("image_ids", "category_ids", "scores", "boxes")


@pytest.fixture(scope="module")
def results():
    return make_results(load_annotations(REAL), 5, np.random.default_rng(0))


def assert_equal(a: Detections, b: Detections) -> None:
    for name in EVERYTHING:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    rows = np.arange(len(a))
    assert a.masks.rles(rows) == b.masks.rles(rows)


def test_json_and_parquet_round_trip_exactly(tmp_path, results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    detections = Detections.read(path)
    assert detections.boxes[3].tolist() == results[3]["bbox"]
    assert detections.masks.rles(np.array([3]))[0]["counts"].decode() == results[3]["segmentation"]["counts"]
    detections.write_parquet(tmp_path / "results.parquet")
    assert_equal(Detections.read(tmp_path / "results.parquet"), detections)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "results.parquet"]


def test_parquet_of_several_chunks_and_of_none(tmp_path, results):
    detections = Detections.from_results(results)
    path = tmp_path / "chunks.parquet"
    detections.write_parquet(path)
    pq.write_table(pq.read_table(path), path, row_group_size=100)
    assert_equal(Detections.read(path), detections)
    Detections.from_results([]).write_parquet(path)
    assert len(Detections.read(path)) == 0


def test_concatenate_keeps_the_order(results):
    parts = [Detections.from_results(results[a : a + 100]) for a in range(0, 500, 100)]
    assert_equal(Detections.concatenate([*parts, Detections.from_results([])]), Detections.from_results(results))
    with pytest.raises(ValueError, match="with and without"):
        Detections.concatenate([parts[0], Detections.build([1], [1], [1.0], boxes=[[0, 0, 1, 1]])])


def test_every_form_of_segmentation_is_the_same_mask():
    annotations = load_annotations(REAL)
    image = {"image_id": 266409, "category_id": 1, "score": 1.0}
    height, width = 480, 640
    polygon = [[0, 0, 2, 0, 2, height, 0, height]]
    uncompressed = {"size": [height, width], "counts": [0, 2 * height, (width - 2) * height]}
    detections = Detections.from_results(
        [image | {"segmentation": polygon}, image | {"segmentation": uncompressed}], annotations
    )
    first, second = detections.masks.rles(np.arange(2))
    assert first == second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.pop("score"), "entry 2 has no 'score'"),
        (lambda entry: entry.pop("bbox"), "entry 2 has no 'bbox'"),
        (lambda entry: entry.update(bbox=[1, 2]), r"entry 2: 'bbox' is \[1, 2\], expected a list of 4 numbers"),
        (lambda entry: entry.update(score="high"), "entry 2: 'score' is 'high', expected a number"),
        (lambda entry: entry.update(score=None), "entry 2: 'score' is None, expected a number"),
        (lambda entry: entry.update(image_id=1.5), "entry 2: 'image_id' is 1.5, expected an integer"),
        (lambda entry: entry.update(segmentation=7), "entry 2: 'segmentation'"),
        (lambda entry: entry.update(segmentation=[[0, 0, 1, 0, 1, 1]]), "entry 2: polygons .* need the annotations"),
    ],
)
def test_bad_entries_are_named(tmp_path, results, change, message):
    entries = [dict(entry) for entry in results[:5]]
    change(entries[2])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=message) as caught:
        Detections.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.json", b'[{"image_id": 1', "invalid JSON at line 1"),
        ("a.json", b'{"annotations": []}', "expected a list of results"),
        ("a.json", b"[1]", "entry 0 is not an object"),
        ("a.parquet", b"PAR1", "not a readable Parquet"),
    ],
)
def test_bad_files_are_named(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=message):
        Detections.read(tmp_path / name)


def test_parquet_without_a_column_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image_id": [1], "category_id": [1]}), path)
    with pytest.raises(UserError, match="no column 'score'"):
        Detections.read(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing.json does not exist"):
        Detections.read(tmp_path / "nothing.json")


def test_single_precision_columns_evaluate(tmp_path, results):
    """Parquet that others wrote with float32 boxes and int32 ids."""
    annotations = load_annotations(REAL)
    detections = Detections.from_results(results)
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(detections.boxes.astype(np.float32).ravel()), 4)
    path = tmp_path / "single.parquet"
    columns = {
        "image_id": detections.image_ids.astype(np.int32),
        "category_id": detections.category_ids.astype(np.int32),
        "score": detections.scores.astype(np.float32),
        "bbox": boxes,
    }
    pq.write_table(pa.table(columns), path)
    single = evaluate(annotations, Detections.read(path), ("bbox",)).metrics["bbox"]["AP"]
    assert single == pytest.approx(evaluate(annotations, detections, ("bbox",)).metrics["bbox"]["AP"], abs=0.01)
