"""Results and annotations of others: read and evaluated, or refused with the file's name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from harness.data.lvis.annotations import Annotations, rasterise_crop
from harness.data.lvis.cache import load_annotations
from harness.errors import UserError
from harness.evaluate import Detections, evaluate
from tests.fuzz.hostile import changed, changed_bytes, fuzz, refused

pytestmark = pytest.mark.timeout(600)
SIDE = 16


def a_mask() -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[4:12, 3:9] = 1
    return {"size": [SIDE, SIDE], "counts": mask_utils.encode(mask)["counts"].decode()}


TRUTH = {
    "categories": [{"id": i, "name": f"c{i}", "frequency": "rcf"[i - 1], "image_count": 1} for i in (1, 2, 3)],
    "images": [
        {"id": i, "height": SIDE, "width": SIDE, "coco_url": f"http://x/val2017/{i}.jpg", "neg_category_ids": [3]}
        | {"not_exhaustive_category_ids": [2]}
        for i in (1, 2)
    ],
    "annotations": [
        {"id": i, "image_id": i, "category_id": i, "bbox": [3.0, 4.0, 6.0, 8.0], "area": 48.0, "segmentation": mask}
        for i, mask in ((1, [[3, 4, 9, 4, 9, 12, 3, 12]]), (2, a_mask()))
    ],
}
RESULTS = [
    {"image_id": i, "category_id": i, "score": 0.5, "bbox": [3, 4, 6, 8], "segmentation": mask}
    for i, mask in ((1, a_mask()), (2, [[3, 4, 9, 4, 9, 12]]), (1, {"size": [SIDE, SIDE], "counts": [5, SIDE**2 - 5]}))
]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps(TRUTH))
    return load_annotations(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def evaluated(path: Path, truth: Annotations) -> None:
    with refused(path.name, UserError):
        evaluate(truth, Detections.read(path, truth))


@fuzz(80, changed(RESULTS))
def test_results(truth: Annotations, folder: Path, content: Any) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    evaluated(path, truth)


@fuzz(60, changed_bytes(json.dumps(RESULTS).encode()))
def test_bytes_of_results(truth: Annotations, folder: Path, content: bytes) -> None:
    path = folder / "results.json"
    path.write_bytes(content)
    evaluated(path, truth)


def _parquet() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "results.parquet"
        rles = [{"size": each["size"], "counts": each["counts"].encode()} for each in (a_mask(), a_mask())]
        Detections.build([1, 2], [1, 2], [0.5, 0.4], [[1, 1, 5, 5]] * 2, rles).write_parquet(path)
        return path.read_bytes()


@fuzz(80, changed_bytes(_parquet()))
def test_bytes_of_parquet(truth: Annotations, folder: Path, content: bytes) -> None:
    path = folder / "results.parquet"
    path.write_bytes(content)
    evaluated(path, truth)


def read_truth(path: Path) -> None:
    with refused(path.name, UserError):
        found = load_annotations(path)
        with refused("annotation", UserError):  # one without a segmentation has no mask
            for index in range(len(found.annotation_ids)):
                rasterise_crop(found, index)


@fuzz(100, changed(TRUTH))
def test_annotations(folder: Path, content: Any) -> None:
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    read_truth(path)


@fuzz(60, changed_bytes(json.dumps(TRUTH).encode()))
def test_bytes_of_annotations(folder: Path, content: bytes) -> None:
    path = folder / "truth.json"
    path.write_bytes(content)
    read_truth(path)
