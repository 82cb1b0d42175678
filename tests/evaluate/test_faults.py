"""What is wrong with false positives, against loops written from TIDE's paper and against the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.data.lvis.cache import load_annotations
from harness.evaluate import Detections, accumulate, evaluate, match, merge
from harness.record.matches import FAULTS, read_half_matches
from reports.faults import KINDS, calibration, fault_gains
from tests.evaluate import tide_by_hand

SIDE, IMAGES, CATEGORIES = 900, 24, 5


def made(seed: int, folder: Path) -> tuple[Path, list[dict], list[dict]]:
    """Annotations in a file, every category searched for in every image; truths and detections, of every fault."""
    rng = np.random.default_rng(seed)

    def outline(box: list[int]) -> list[list[int]]:
        x, y, w, h = box
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]

    truths, detections = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 9)):
            box = [*rng.integers(0, 500, 2).tolist(), *rng.integers(60, 350, 2).tolist()]
            category = int(rng.integers(1, CATEGORIES + 1))
            truths.append({"id": len(truths) + 1, "image_id": image, "category_id": category, "bbox": box})
            for _ in range(rng.integers(0, 5)):
                near = [max(0, round(v + rng.normal(0, rng.choice([3, 40, 110])))) for v in box[:2]]
                size = [max(20, round(v * rng.uniform(0.7, 1.4))) for v in box[2:]]
                guessed = category if rng.random() < 0.7 else int(rng.integers(1, CATEGORIES + 1))
                detections.append({"image_id": image, "category_id": guessed, "bbox": near + size})
        for _ in range(3):
            box = [*rng.integers(0, 500, 2).tolist(), *rng.integers(60, 350, 2).tolist()]
            category = int(rng.integers(1, CATEGORIES + 1))
            detections.append({"image_id": image, "category_id": category, "bbox": box})
    for detection, score in zip(detections, rng.permutation(len(detections)), strict=True):
        detection["score"] = (float(score) + 0.5) / len(detections)
    counts = {"image_count": 1, "instance_count": 1}
    every = list(range(1, CATEGORIES + 1))
    image = {"height": SIDE, "width": SIDE, "neg_category_ids": every, "not_exhaustive_category_ids": []}
    content = {
        "categories": [{"id": c, "name": f"c{c}", "frequency": "rcfrc"[c - 1], **counts} for c in every],
        "images": [{"id": i, "file_name": f"{i}.jpg", **image} for i in range(1, IMAGES + 1)],
        "annotations": [{**t, "area": t["bbox"][2] * t["bbox"][3], "segmentation": outline(t["bbox"])} for t in truths],
    }
    path = folder / f"{seed}.json"
    path.write_text(json.dumps(content))
    return path, truths, [{**d, "segmentation": outline(d["bbox"])} for d in detections]


def _by_package(truths: list[dict], detections: list[dict]) -> dict[str, float]:
    pytest.importorskip("tidecv", reason="the package is checked where it is: pip install tidecv")
    return tide_by_hand.package_gains(truths, detections)


# The package's recalls, x / 100, differ from LVIS's in their last bits, so one of 101 may fall to the other side.
ONE_RECALL = 100 / 101 / CATEGORIES


@pytest.mark.parametrize(("reference", "apart"), [(tide_by_hand.gains, 1e-9), (_by_package, ONE_RECALL)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gains_are_tides(tmp_path: Path, seed: int, reference: Callable[..., dict[str, float]], apart: float) -> None:
    path, truths, results = made(seed, tmp_path)
    annotations = load_annotations(path)
    detections = Detections.from_results(results, annotations)
    wanted = reference(truths, results)
    assert min(wanted.values()) > 0.1  # every kind is there
    evaluate(annotations, detections, with_faults=True).write(tmp_path)
    for iou_type in ("bbox", "segm"):  # masks are the boxes
        found = read_half_matches(tmp_path, iou_type)
        assert found is not None
        gains = fault_gains(found)
        assert gains is not None
        assert list(gains) == list(KINDS)
        for kind, value in wanted.items():
            assert gains[kind] == pytest.approx(value, abs=apart), kind


def test_the_same_from_any_number_of_ranks_and_not_at_all_where_not_asked_for(tmp_path: Path) -> None:
    path, _, results = made(4, tmp_path)
    annotations, folders = load_annotations(path), [tmp_path / name for name in ("one", "three", "none")]
    detections = Detections.from_results(results, annotations)
    for folder in folders:
        folder.mkdir()
    parts = [match(annotations, detections, "bbox", np.arange(r, IMAGES, 3), with_faults=True) for r in (2, 0, 1)]
    evaluate(annotations, detections, ("bbox",), with_faults=True).write(folders[0])
    accumulate(annotations, {"bbox": merge(parts)}).write(folders[1])
    evaluate(annotations, detections, ("bbox",)).write(folders[2])
    one, three, none = (read_half_matches(folder, "bbox") for folder in folders)
    assert one is not None
    assert three is not None
    assert none is not None
    for name in ("fault", "truth", "score", "hit", "instance_category"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    assert none.fault is None
    assert fault_gains(none) is None


def test_each_fault_by_hand(tmp_path: Path) -> None:
    path, _, _ = made(5, tmp_path)
    content = json.loads(path.read_text())
    truths = [(1, 1, [0, 0, 100, 100]), (1, 2, [300, 0, 100, 100])]
    content["annotations"] = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": 1e4, "segmentation": [[0, 0, 9, 0, 9, 9]]}
        for n, (i, c, b) in enumerate(truths, 1)
    ]
    path.write_text(json.dumps(content))
    annotations = load_annotations(path)
    expected = {
        "": (1, [0, 0, 100, 90]),
        "duplicate": (1, [0, 0, 100, 80]),
        "localisation": (1, [0, 60, 100, 100]),
        "class": (1, [300, 0, 100, 100]),
        "both": (1, [300, 60, 100, 100]),
        "background": (1, [600, 600, 100, 100]),
    }
    entries = [
        {"image_id": 1, "category_id": c, "score": 0.9 - 0.1 * n, "bbox": b}
        for n, (c, b) in enumerate(expected.values())
    ]
    matches = match(annotations, Detections.from_results(entries), "bbox", with_faults=True)
    assert matches.fault is not None
    assert matches.truth is not None
    assert [FAULTS[fault] for fault in matches.fault] == list(expected)
    assert matches.truth.tolist() == [0, -1, 0, 1, -1, -1]


def test_calibration_by_hand(tmp_path: Path) -> None:
    path, truths, _ = made(6, tmp_path)
    annotations = load_annotations(path)
    right = [{**truths[0], "score": 0.85}]
    wrong = [{**truths[0], "score": 0.85 - 0.01 * n, "bbox": [0, 0, 5, 5]} for n in range(4)]
    evaluate(annotations, Detections.from_results(right + wrong), ("bbox",)).write(tmp_path)
    found = read_half_matches(tmp_path, "bbox")
    assert found is not None
    measured = calibration(found)
    assert measured.count[8] == 5
    assert measured.hits[8] == pytest.approx(1 / 5)
    assert measured.error == pytest.approx(0.838 - 0.2)
