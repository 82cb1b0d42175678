"""Average precision worked out by hand, so that the evaluator stands without the `lvis` package."""

import json

import numpy as np
import pytest

from harness.data.lvis.cache import load_annotations
from harness.errors import UserError
from harness.evaluate import Detections, evaluate, match, merge

SIDE = 200


def scene(tmp_path, truths, negatives=(), not_exhaustive=(), frequencies="rcf"):
    """Images 1 and 2, categories 1, 2, 3; truths are (image, category, box)."""
    data = {
        "categories": [
            {"id": c, "name": f"c{c}", "frequency": f, "image_count": 1, "instance_count": 1}
            for c, f in enumerate(frequencies, 1)
        ],
        "images": [
            {
                "id": i,
                "height": SIDE,
                "width": SIDE,
                "file_name": f"{i}.jpg",
                "neg_category_ids": [c for image, c in negatives if image == i],
                "not_exhaustive_category_ids": [c for image, c in not_exhaustive if image == i],
            }
            for i in (1, 2)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": i,
                "category_id": c,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": outline(box),
            }
            for n, (i, c, box) in enumerate(truths, 1)
        ],
    }
    path = tmp_path / "scene.json"
    path.write_text(json.dumps(data))
    return load_annotations(path)


def outline(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def found(annotations, *entries):
    """entries are (image, category, score, box); the mask is the box."""
    results = [
        {"image_id": i, "category_id": c, "score": s, "bbox": box, "segmentation": outline(box)}
        for i, c, s, box in entries
    ]
    return Detections.from_results(results, annotations)


A, B, FAR = [10, 10, 40, 40], [100, 100, 40, 40], [10, 150, 40, 40]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_precision_envelope_over_101_recalls(tmp_path, iou_type):
    """Hit, false positive, hit of 2 instances: recalls 0 to 0.50 have precision 1, the 50 above it 2/3."""
    annotations = scene(tmp_path, [(1, 1, A), (1, 1, B)])
    detections = found(annotations, (1, 1, 0.9, A), (1, 1, 0.8, FAR), (1, 1, 0.7, B))
    metrics = evaluate(annotations, detections, (iou_type,)).metrics[iou_type]
    expected = (51 * 1 + 50 * 2 / 3) / 101
    for name in ("AP", "AP50", "AP75", "APm", "APr"):
        assert metrics[name] == pytest.approx(expected, abs=1e-12), name
    assert metrics["AR@300"] == 1
    assert [metrics[name] for name in ("APs", "APl", "APc", "APf")] == [None] * 4


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_overlap_decides_the_thresholds(tmp_path, iou_type):
    """Boxes 40 × 40 and 40 × 29 inside it: IoU 0.725, so found at the thresholds 0.50 to 0.70, half of the ten."""
    annotations = scene(tmp_path, [(1, 1, A)])
    metrics = evaluate(annotations, found(annotations, (1, 1, 0.9, [10, 10, 40, 29])), (iou_type,)).metrics[iou_type]
    assert metrics["AP"] == pytest.approx(0.5, abs=1e-12)
    assert metrics["AP50"] == pytest.approx(1, abs=1e-12)
    assert metrics["AP75"] == 0


def test_federated_rules(tmp_path):
    """One instance of category 1 in image 1; detections of image 2 rank first and stand for each rule in turn."""

    def ap(negatives, not_exhaustive, *before):
        annotations = scene(tmp_path, [(1, 1, A)], negatives, not_exhaustive)
        detections = found(annotations, *before, (1, 1, 0.5, A))
        return evaluate(annotations, detections, ("bbox",)).metrics["bbox"]["AP"]

    assert ap([], [], (2, 1, 0.9, A)) == pytest.approx(1)  # neither positive nor negative: does not count
    assert ap([(2, 1)], [], (2, 1, 0.9, A)) == pytest.approx(0.5)  # negative: a false positive
    assert ap([(2, 1)], [(2, 1)], (2, 1, 0.9, A)) == pytest.approx(1)  # not exhaustive: ignored
    assert ap([], [(1, 1)], (1, 1, 0.9, FAR)) == pytest.approx(1)
    assert ap([], [], (1, 1, 0.9, FAR)) == pytest.approx(0.5)
    assert ap([], [], (1, 1, 0.9, A)) == pytest.approx(1)  # the second on the same instance comes after full recall


def test_each_instance_is_found_once_by_the_best_score(tmp_path):
    annotations = scene(tmp_path, [(1, 1, A), (2, 1, A)])
    detections = found(annotations, (1, 1, 0.9, A), (1, 1, 0.8, A), (2, 1, 0.7, A))
    assert evaluate(annotations, detections, ("bbox",)).metrics["bbox"]["AP"] == pytest.approx(
        (51 * 1 + 50 * 2 / 3) / 101
    )


def test_of_equal_overlaps_the_last_instance_is_taken(tmp_path):
    """The first detection lies midway between two instances; the second reaches only the last one, which is gone."""
    annotations = scene(tmp_path, [(1, 1, [0, 0, 40, 40]), (1, 1, [8, 0, 40, 40])])
    detections = found(annotations, (1, 1, 0.9, [4, 0, 40, 40]), (1, 1, 0.8, [20, 0, 40, 40]))
    assert evaluate(annotations, detections, ("bbox",)).metrics["bbox"]["AP50"] == pytest.approx(51 / 101)


def test_an_ignored_instance_is_taken_only_when_no_other_fits(tmp_path):
    """The detection overlaps a small instance at 0.91 and a medium one at 1: small, it is found at thresholds to 0.9;
    at 0.95 the medium one takes the detection, which is then ignored."""
    annotations = scene(tmp_path, [(1, 1, [0, 0, 31, 32]), (1, 1, [0, 0, 33, 33])])
    metrics = evaluate(annotations, found(annotations, (1, 1, 0.9, [0, 0, 33, 33])), ("bbox",)).metrics["bbox"]
    assert metrics["APs"] == pytest.approx(0.9)
    assert metrics["APm"] == pytest.approx(1)


def test_only_the_best_300_of_an_image_count(tmp_path):
    annotations = scene(tmp_path, [(1, 1, A)])
    others = [(1, 2, 0.9, FAR)] * 299
    hit = (1, 1, 0.5, A)
    assert evaluate(annotations, found(annotations, hit, *others), ("bbox",)).metrics["bbox"]["AP"] == pytest.approx(1)
    others.append(others[0])
    assert evaluate(annotations, found(annotations, hit, *others), ("bbox",)).metrics["bbox"]["AP"] == 0


def test_groups_and_categories(tmp_path):
    annotations = scene(tmp_path, [(1, 1, A), (1, 2, B), (2, 2, A), (2, 3, B)])
    detections = found(annotations, (1, 1, 0.9, A), (1, 2, 0.9, B))
    evaluation = evaluate(annotations, detections, ("bbox",))
    metrics = evaluation.metrics["bbox"]
    half = pytest.approx(51 / 101)
    assert (metrics["APr"], metrics["APc"], metrics["APf"]) == (pytest.approx(1), half, 0)
    assert metrics["AP"] == pytest.approx((1 + 51 / 101) / 3)
    assert evaluation.per_category("bbox") == {"1": pytest.approx(1), "2": half, "3": 0}


def test_no_detections_at_all(tmp_path):
    annotations = scene(tmp_path, [(1, 1, A)])
    metrics = evaluate(annotations, Detections.from_results([])).metrics
    assert metrics["bbox"] == metrics["segm"]
    assert metrics["bbox"]["AP"] == 0
    assert metrics["bbox"]["APf"] is None


def test_detections_size_is_of_the_box_unless_asked(tmp_path):
    """A stray detection of a 40 × 40 box, medium, with a mask of 20 × 20, small: whose false positive is it?"""
    annotations = scene(tmp_path, [(1, 1, [10, 10, 20, 20]), (1, 1, [60, 10, 40, 40])])
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": B, "segmentation": outline([100, 100, 20, 20])},
        *(
            {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": box, "segmentation": outline(box)}
            for box in ([10, 10, 20, 20], [60, 10, 40, 40])
        ),
    ]
    detections = Detections.from_results(results, annotations)
    by_box = evaluate(annotations, detections, ("segm",)).metrics["segm"]
    by_mask = evaluate(annotations, detections, ("segm",), mask_area=True).metrics["segm"]
    assert (by_box["APs"], by_box["APm"]) == (pytest.approx(1), pytest.approx(0.5))
    assert (by_mask["APs"], by_mask["APm"]) == (pytest.approx(0.5), pytest.approx(1))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((7, 1, 0.5, A), "entry 1 names image 7"),
        ((1, 9, 0.5, A), "entry 1 names category 9"),
        ((1, 1, float("nan"), A), "entry 1 has score nan"),
        ((1, 1, 0.5, [0, 0, float("inf"), 1]), "entry 1 has box"),
    ],
)
def test_bad_entries_are_named(tmp_path, entry, message):
    annotations = scene(tmp_path, [(1, 1, A)])
    image, category, score, box = zip((1, 1, 0.5, A), entry, strict=True)
    with pytest.raises(UserError, match=message):
        match(annotations, Detections.build(image, category, score, box), "bbox")


def test_masks_of_another_size_and_absent_masks_are_named(tmp_path):
    annotations = scene(tmp_path, [(1, 1, A)])
    rle = {"size": [5, 5], "counts": b"i0"}
    with pytest.raises(UserError, match=r"entry 0 has a mask of \[5, 5\]"):
        match(annotations, Detections.build([1], [1], [0.5], rles=[rle]), "segm")
    with pytest.raises(UserError, match="no masks"):
        match(annotations, Detections.build([1], [1], [0.5], boxes=[A]), "segm")


def test_an_image_cannot_be_merged_twice(tmp_path):
    annotations = scene(tmp_path, [(1, 1, A)])
    part = match(annotations, found(annotations, (1, 1, 0.9, A)), "bbox", np.array([0]))
    with pytest.raises(ValueError, match="more than one"):
        merge([part, part])
