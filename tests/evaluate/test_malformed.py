"""What hangs or crashes pycocotools, and the `lvis` package with it, is named by file and entry when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from harness.cli import app
from harness.data.lvis.annotations import Annotations
from harness.data.lvis.cache import load_annotations
from harness.errors import UserError
from harness.evaluate import Detections, evaluate
from harness.evaluate.lvis_compat import numpy_float
from tests.evaluate.made_detections import REAL, largest_difference, make_results, package_evaluator

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def annotations() -> Annotations:
    return load_annotations(REAL)


def a_result(annotations: Annotations, segmentation: object) -> dict:
    ids = {"image_id": int(annotations.image_ids[0]), "category_id": int(annotations.category_ids[0])}
    return {**ids, "score": 0.5, "bbox": [1, 1, 5, 5], "segmentation": segmentation}


def a_mask(annotations: Annotations) -> tuple[list[int], bytes]:
    size = [int(annotations.heights[0]), int(annotations.widths[0])]
    mask = np.zeros(size, np.uint8, order="F")
    mask[20:80, 30:90] = 1
    return size, mask_utils.encode(mask)["counts"]


def malformed(annotations: Annotations) -> dict[str, object]:
    size, counts = a_mask(annotations)
    pixels, text = size[0] * size[1], counts.decode()
    return {
        "three times the image": {"size": size, "counts": [0, 3 * pixels]},
        "too short": {"size": size, "counts": [5, 5]},
        "negative": {"size": size, "counts": [-5, pixels + 5]},
        "truncated": {"size": size, "counts": text[:-3]},
        "lengthened": {"size": size, "counts": text + "a3"},
        "cut within a number": {"size": size, "counts": "l"},
        "empty": {"size": size, "counts": ""},
        "no counts": {"size": size, "counts": None},
        "not ascii": {"size": size, "counts": "é" * 10},
        "a space": {"size": size, "counts": text[:4] + " " + text[4:]},
        "absurd size": {"size": [2**31, 2**31], "counts": text},
        "no size": {"size": 5, "counts": text},
        "absurd coordinates": [[0, 0, 2**31, 0, 5, 5]],
        "absurd negative coordinates": [[0, 0, -(2**31), 0, 5, 5]],
        "huge coordinates": [[0, 0, 1e300, 0, 5, 5]],
        "a word": "mask",
        "odd": [[1, 2, 3]],
    }


def test_malformed_masks_of_results_are_named(annotations: Annotations, tmp_path: Path) -> None:
    size, counts = a_mask(annotations)
    good = a_result(annotations, {"size": size, "counts": counts.decode()})
    path = tmp_path / "results.json"
    for segmentation in malformed(annotations).values():
        path.write_text(json.dumps([good, a_result(annotations, segmentation), good]))
        with pytest.raises(UserError, match=r"results\.json: entry 1\b"):
            Detections.read(path, annotations)
    path.write_text(json.dumps([good]))
    assert len(Detections.read(path, annotations)) == 1


def test_malformed_masks_of_parquet_are_named(annotations: Annotations, tmp_path: Path) -> None:
    size, counts = a_mask(annotations)
    ids = [int(annotations.image_ids[0])] * 3, [int(annotations.category_ids[0])] * 3
    for wrong in (counts[:-2], counts + b"a3", b"l"):
        rles = [{"size": size, "counts": each} for each in (counts, counts, wrong)]
        Detections.build(*ids, [0.5] * 3, rles=rles).write_parquet(tmp_path / "results.parquet")
        with pytest.raises(UserError, match=r"results\.parquet: entry 2 has a mask of"):
            Detections.read(tmp_path / "results.parquet")


def test_malformed_masks_of_annotations_are_named(annotations: Annotations, tmp_path: Path) -> None:
    content = json.loads(REAL.read_text())
    first = content["annotations"][3]
    place = annotations.image_ids.tolist().index(first["image_id"])
    size = [int(annotations.heights[place]), int(annotations.widths[place])]
    path = tmp_path / "truth.json"
    for name, segmentation in malformed(annotations).items():
        if isinstance(segmentation, dict) and "size" not in name:
            segmentation = {**segmentation, "size": size}
        first["segmentation"] = segmentation
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"truth\.json: (annotation {first['id']}\b|a polygon)"):
            load_annotations(path)
    content["annotations"].remove(first)
    content["images"][2]["height"] = 2**31
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=rf"image {content['images'][2]['id']}: size \[2147483648, \d+\] is not the size of an image"
    ):
        load_annotations(path)


def test_an_unknown_image_with_a_polygon_is_named(annotations: Annotations, tmp_path: Path) -> None:
    result = a_result(annotations, [[1, 1, 9, 1, 9, 9]]) | {"image_id": 77}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    with pytest.raises(UserError, match=r"results\.json: entry 0 names image 77, which the annotations do not have"):
        Detections.read(tmp_path / "results.json", annotations)


def test_a_polygon_of_no_image_is_named(annotations: Annotations, tmp_path: Path) -> None:
    result = a_result(annotations, [[1, 1, 9, 1, 9, 9]])
    del result["image_id"]
    (tmp_path / "results.json").write_text(json.dumps([result]))
    with pytest.raises(UserError, match=r"results\.json: entry 0 has no 'image_id'"):
        Detections.read(tmp_path / "results.json", annotations)


@pytest.mark.parametrize("value", ["\n", "x" * 10**6])
def test_what_is_quoted_of_a_file_stays_on_a_short_line(value: str, tmp_path: Path) -> None:
    content = json.loads(REAL.read_text())
    content["annotations"][0]["id"] = value
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"truth\.json: annotation .{3,110}: 'id' is .{3,110}, expected an integer"
    ) as end:
        load_annotations(path)
    assert "\n" not in str(end.value)


def test_a_long_name_is_not_made_the_width_of_all(tmp_path: Path) -> None:
    content = json.loads(REAL.read_text())
    content["categories"][0]["name"] = "x" * 2000
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"truth\.json: a text of 2000 characters \('x+…\); the limit is 1024"):
        load_annotations(path)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_named_with_the_file(
    annotations: Annotations, score: float, tmp_path: Path
) -> None:
    ids = [int(annotations.image_ids[0])] * 2, [int(annotations.category_ids[0])] * 2
    path = tmp_path / "results.parquet"
    Detections.build(*ids, [0.5, score], [[1, 1, 5, 5]] * 2).write_parquet(path)
    with pytest.raises(UserError, match=r"results\.parquet: entry 1 has score (nan|inf|-inf)"):
        evaluate(annotations, Detections.read(path), ["bbox"])


def test_unknown_categories_are_named_or_left_out_as_the_package_does(annotations: Annotations, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    rng = np.random.default_rng(0)
    results = make_results(annotations, 20, rng)
    for result in results[::7]:
        result["category_id"] = 99_999
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    detections = Detections.read(path)
    with pytest.raises(UserError, match=r"results\.json: entry 0 names category 99999, .*--ignore-unknown"):
        evaluate(annotations, detections)
    ours = evaluate(annotations, detections, ["bbox"], ignore_unknown=True)
    package = package_evaluator(REAL, results, "bbox")
    with numpy_float():
        package.run()
    assert largest_difference(ours, package, "bbox") < 1e-9
    arguments = ["evaluate", str(path), "-a", str(REAL), "--iou", "bbox"]
    assert isinstance(CliRunner().invoke(app, arguments).exception, UserError)
    assert CliRunner().invoke(app, [*arguments, "--ignore-unknown"]).exit_code == 0
