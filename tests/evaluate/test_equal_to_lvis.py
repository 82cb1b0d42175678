"""Equality with the `lvis` package, which is the truth, on real annotations and on generated edge cases."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data.lvis.cache import load_annotations
from harness.evaluate import Detections, accumulate, evaluate, match, merge
from tests.evaluate.made_detections import REAL, largest_difference, make_results, package_evaluation, replicate

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def real():
    return load_annotations(REAL)


def test_package_still_needs_our_help():
    """Fails once the package works on current NumPy: then delete harness/evaluate/lvis_compat.py."""
    assert not hasattr(np, "float"), "this NumPy has np.float; lvis_compat is not needed with it"
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS(str(REAL))
    results = [{"image_id": 565853, "category_id": 852, "score": 1.0, "bbox": [12.0, 245.0, 32.0, 37.0]}]
    with pytest.raises(AttributeError, match="float"):
        LVISEval(truth, LVISResults(truth, results), "bbox").run()


@pytest.mark.parametrize(("per_image", "ties", "images"), [(40, True, None), (330, False, 25)])
def test_real_annotations(real, per_image, ties, images):
    results = make_results(real, per_image, np.random.default_rng(per_image), ties, images)
    ours = evaluate(real, Detections.from_results(results))
    for iou_type in ("bbox", "segm"):
        assert 0.1 < ours.metrics[iou_type]["AP"] < 0.9
        package = package_evaluation(REAL, results, iou_type)
        assert largest_difference(ours, package, iou_type) < TOLERANCE


def test_the_embedded_dataset(mini_root):
    path = mini_root / "lvis" / "lvis_v1_val.json"
    annotations = load_annotations(path)
    results = make_results(annotations, 30, np.random.default_rng(2))
    ours = evaluate(annotations, Detections.from_results(results))
    for iou_type in ("bbox", "segm"):
        assert largest_difference(ours, package_evaluation(path, results, iou_type), iou_type) < TOLERANCE


def test_replicated_and_sharded(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(replicate(REAL, 2)))
    annotations = load_annotations(path)
    results = make_results(annotations, 30, np.random.default_rng(0))
    detections = Detections.from_results(results)
    for iou_type in ("bbox", "segm"):
        parts = [match(annotations, detections, iou_type, np.arange(r, 200, 4)) for r in (2, 0, 3, 1)]
        package = package_evaluation(path, results, iou_type)
        assert largest_difference(accumulate(annotations, {iou_type: merge(parts)}), package, iou_type) < TOLERANCE


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_results_without_boxes(real, iou_type):
    results = make_results(real, 30, np.random.default_rng(1))
    with_boxes = Detections.from_results(results)
    for entry in results:
        del entry["bbox"]
    package = package_evaluation(REAL, results, iou_type)
    ours = evaluate(real, Detections.from_results(results), (iou_type,))
    assert largest_difference(ours, package, iou_type) < TOLERANCE
    if iou_type == "segm":
        assert evaluate(real, with_boxes, ("segm",), mask_area=True).metrics == ours.metrics


def test_subset_of_images(real):
    results = make_results(real, 30, np.random.default_rng(2))
    ours = evaluate(real, Detections.from_results(results), ("bbox",), images=np.arange(0, 100, 3))
    package = package_evaluation(REAL, results, "bbox", real.image_ids[::3].tolist())
    assert largest_difference(ours, package, "bbox") < TOLERANCE


# Generated cases: small coordinates on a coarse grid make equal boxes, equal IoUs, IoUs on a threshold, touching and
# empty boxes likely; areas around 32² and 96² stand on the borders of the area ranges.
SIDE = 120
NUM_CATEGORIES = 4
side = st.sampled_from([0, 8, 16, 32, 32, 64, 96])
corner = st.sampled_from([0, 0, 4, 8, 24])
coarse = st.tuples(corner, corner, side, side)
near = st.sampled_from([0, 0, 4, 8])
crowded = st.tuples(near, near, st.sampled_from([28, 32, 36]), st.just(32))  # overlaps with several, often equal
boxes = st.one_of(coarse, crowded)
score = st.sampled_from([0.1, 0.5, 0.5, 0.9])
categories = st.sampled_from([1, 1, 1, 2, 3, NUM_CATEGORIES])
some_categories = st.lists(categories, max_size=2, unique=True)
images = st.sampled_from([7, 7, 7, 3, 11])
truths = st.lists(st.tuples(images, categories, boxes, st.sampled_from([0, 0, 0, 1])), max_size=12)
found = st.lists(st.tuples(images, categories, boxes, score), max_size=25)


def _outline(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _case(truth, detected, negatives, not_exhaustive, first_id, copies):
    data = {
        "categories": [
            {"id": c, "name": f"c{c}", "frequency": "rcfr"[c - 1], "image_count": 1, "instance_count": 1}
            for c in range(1, NUM_CATEGORIES + 1)
        ],
        "images": [
            {
                "id": i,
                "height": SIDE,
                "width": SIDE,
                "file_name": f"{i}.jpg",
                "neg_category_ids": negatives[k],
                "not_exhaustive_category_ids": not_exhaustive[k],
            }
            for k, i in enumerate((7, 3, 11))
        ],
        "annotations": [
            {
                "id": n + first_id,
                "image_id": i,
                "category_id": c,
                "bbox": list(box),
                "area": box[2] * box[3],
                "segmentation": _outline(box),
                "ignore": ignore,
            }
            for n, (i, c, box, ignore) in enumerate(truth)
        ],
    }
    results = [
        {"image_id": i, "category_id": c, "score": s, "bbox": list(box), "segmentation": _outline(box)}
        for i, c, box, s in detected
    ] * copies
    return data, results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    truth=truths,
    detected=found,
    negatives=st.tuples(some_categories, some_categories, some_categories),
    not_exhaustive=st.tuples(some_categories, some_categories, some_categories),
    first_id=st.integers(0, 1),
    copies=st.sampled_from([1, 1, 1, 2, 40]),
)
def test_edge_cases(tmp_path, iou_type, truth, detected, negatives, not_exhaustive, first_id, copies):
    data, results = _case(truth, detected, negatives, not_exhaustive, first_id, copies)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(data))
    annotations = load_annotations(path)
    # The package cannot take an empty list, so it is given a detection without area, which it drops.
    dropped = {
        "image_id": 3,
        "category_id": 1,
        "score": 0.0,
        "bbox": [0, 0, 0, 0],
        "segmentation": _outline((0, 0, 0, 0)),
    }
    package = package_evaluation(path, results or [dropped], iou_type)
    ours = evaluate(annotations, Detections.from_results(results, annotations), (iou_type,))
    assert largest_difference(ours, package, iou_type) < TOLERANCE
