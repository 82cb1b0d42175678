"""What an evaluation writes for reports: resampling images from it equals evaluating the resampled images anew."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.data.lvis.cache import load_annotations
from harness.evaluate import Detections, evaluate
from harness.record.matches import read_matches
from tests.evaluate.made_detections import REAL, make_results
from tests.reports.resampling import image_weights, resampled_ap


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    annotations = load_annotations(REAL)
    # Scores without ties: a resample's copies of an image are then ranked alike, whoever sorts them.
    results = make_results(annotations, 40, np.random.default_rng(3), ties=False)
    detections = Detections.from_results(results)
    evaluation = evaluate(annotations, detections)
    folder = tmp_path_factory.mktemp("run")
    evaluation.write(folder)
    return annotations, detections, evaluation, folder


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_weights_of_one_give_the_evaluation(evaluated, iou_type):
    _, _, evaluation, folder = evaluated
    figures = resampled_ap(read_matches(folder, iou_type), np.ones((1, 100), np.int64))[0]
    wanted = [evaluation.metrics[iou_type][name] for name in ("AP", "APr", "APc", "APf")]
    assert figures == pytest.approx(wanted, abs=1e-12)


def test_a_resample_equals_an_evaluation_of_its_images(evaluated, tmp_path):
    annotations, detections, _, folder = evaluated
    weight = image_weights(100, 1)[0]
    assert weight.sum() == 100
    assert weight.max() > 2
    data = json.loads(REAL.read_text())
    images = {image["id"]: image for image in data["images"]}
    drawn, parts, truths = [], [], []
    for index, times in enumerate(weight):
        original = int(annotations.image_ids[index])
        rows = np.flatnonzero(detections.image_ids == original)
        for _ in range(times):
            new = len(drawn) + 1
            drawn.append(images[original] | {"id": new})
            truths += [
                a | {"image_id": new, "id": len(truths) + n}
                for n, a in enumerate((a for a in data["annotations"] if a["image_id"] == original), 1)
            ]
            copy = Detections.build(
                np.full(len(rows), new), detections.category_ids[rows], detections.scores[rows], detections.boxes[rows]
            )
            parts.append(copy)
    path = tmp_path / "resample.json"
    path.write_text(json.dumps(data | {"images": drawn, "annotations": truths}))
    anew = evaluate(load_annotations(path), Detections.concatenate(parts), ("bbox",)).metrics["bbox"]
    figures = resampled_ap(read_matches(folder, "bbox"), weight[None])[0]
    assert figures == pytest.approx([anew[name] for name in ("AP", "APr", "APc", "APf")], abs=1e-12)


def test_images_left_out_are_not_counted(evaluated):
    annotations, detections, _, folder = evaluated
    images = np.arange(0, 100, 2)
    weight = np.zeros((1, 100), np.int64)
    weight[0, images] = 1
    subset = evaluate(annotations, detections, ("segm",), images=images).metrics["segm"]
    figures = resampled_ap(read_matches(folder, "segm"), weight)[0]
    wanted = [np.nan if subset[n] is None else subset[n] for n in ("AP", "APr", "APc", "APf")]
    assert figures == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_images_of_a_subset_are_numbered_among_themselves(evaluated, tmp_path):
    annotations, detections, _, _ = evaluated
    evaluation = evaluate(annotations, detections, ("bbox",), images=np.arange(50, 80))
    evaluation.write(tmp_path)
    resampling = read_matches(tmp_path, "bbox")
    assert resampling.images == 30
    figures = resampled_ap(resampling, np.ones((1, 30), np.int64))[0]
    assert figures[0] == pytest.approx(evaluation.metrics["bbox"]["AP"], abs=1e-12)
    assert read_matches(tmp_path, "segm") is None


def test_per_category_table(evaluated):
    annotations, _, evaluation, folder = evaluated
    table = pq.read_table(folder / "per_category.parquet").to_pandas()
    assert table.columns[:6].tolist() == ["iou_type", "category_id", "name", "frequency", "instances", "images"]
    for iou_type in ("bbox", "segm"):
        rows = table[table.iou_type == iou_type]
        assert rows.category_id.tolist() == annotations.category_ids.tolist()
        assert rows.AP.mean() == pytest.approx(evaluation.metrics[iou_type]["AP"], abs=1e-12)
        assert rows.APl.mean() == pytest.approx(evaluation.metrics[iou_type]["APl"], abs=1e-12)
        assert rows.AP.isna().equals(rows.instances == 0)
        assert rows.instances.sum() == 977
