"""Detections made by perturbing real annotations, and the `lvis` package's verdict on them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from harness.data.lvis.annotations import Annotations
from harness.evaluate.lvis_ap import Evaluation
from harness.evaluate.lvis_compat import numpy_float

REAL = Path(__file__).parent / "lvis_val_100.json"


def make_results(
    annotations: Annotations, per_image: int, rng: np.random.Generator, ties: bool = True, images: int | None = None
) -> list[dict]:
    """Results entries with box and mask: shifted annotations, some of another category, and boxes of negative,
    not-exhaustive and any categories. With `ties`, scores have two digits. images: so many first ones have results."""
    results = []
    for image in range(len(annotations.image_ids))[:images]:
        height, width = int(annotations.heights[image]), int(annotations.widths[image])
        own = np.arange(len(annotations.areas))[annotations.annotations_of(image)]
        listed = np.concatenate([annotations.negatives_of(image), annotations.not_exhaustive_of(image)])
        for _ in range(per_image):
            kind = rng.random()
            if len(own) and kind < 0.7:
                index = rng.choice(own)
                box, outline = _perturbed(annotations, index, rng, height, width)
                labelled = rng.choice(own) if kind < 0.1 else index
                category = annotations.annotation_categories[labelled]
            else:
                known = kind < 0.9 and len(listed)
                category = rng.choice(listed) if known else rng.integers(len(annotations.category_ids))
                box = rng.random(4) * [width / 2, height / 2, width / 2, height / 2]
                x, y, w, h = box.tolist()
                outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            score = rng.random()
            results.append(
                {
                    "image_id": int(annotations.image_ids[image]),
                    "category_id": int(annotations.category_ids[category]),
                    "score": round(score, 2) if ties else score,
                    "bbox": [float(value) for value in box],
                    "segmentation": _rle(outline, height, width),
                }
            )
    return results


def _perturbed(
    annotations: Annotations, index: int, rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, list[list[float]]]:
    strength = rng.choice([0, 0.02, 0.1, 0.4])
    size = annotations.boxes[index, 2:]
    box = annotations.boxes[index] + rng.normal(0, 1, 4) * strength * np.tile(size, 2)
    box[2:] = np.abs(box[2:])
    shift = rng.normal(0, 0.5, 2) * strength * size
    outline = []
    first, last = annotations.polygon_offsets[index : index + 2]
    for polygon in range(first, last):
        a, b = annotations.point_offsets[polygon : polygon + 2]
        points = annotations.coordinates[a:b].reshape(-1, 2) + shift
        outline.append(points.clip(0, [width, height]).ravel().tolist())
    return box, outline


def _rle(outline: list[list[float]], height: int, width: int) -> dict[str, Any]:
    rle = mask_utils.merge(mask_utils.frPyObjects(outline, height, width))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def replicate(path: Path, times: int) -> dict:
    """The annotation file's contents with its images and annotations repeated under new ids."""
    data = json.loads(path.read_text())
    image_step = max(image["id"] for image in data["images"]) + 1
    annotation_step = max(annotation["id"] for annotation in data["annotations"]) + 1
    images, annotations = data["images"], data["annotations"]
    data["images"] = [{**image, "id": image["id"] + n * image_step} for n in range(times) for image in images]
    data["annotations"] = [
        {**a, "id": a["id"] + n * annotation_step, "image_id": a["image_id"] + n * image_step}
        for n in range(times)
        for a in annotations
    ]
    return data


def package_evaluation(path: Path, results: list[dict], iou_type: str, image_ids: list[int] | None = None) -> Any:
    """The package's LVISEval after `run`, on some images or all. The results are copied, since it writes into them."""
    evaluation = package_evaluator(path, copy.deepcopy(results), iou_type)
    if image_ids is not None:
        evaluation.params.img_ids = image_ids
    with numpy_float():
        evaluation.run()
    return evaluation


def package_evaluator(path: Path, results: list[dict], iou_type: str) -> Any:
    """The package's LVISEval, loaded and not run yet."""
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS(str(path))
    return LVISEval(truth, LVISResults(truth, results), iou_type)


def largest_difference(ours: Evaluation, package: Any, iou_type: str) -> float:
    """Over every figure, and AP and recall of every category, area and threshold; infinite when defined otherwise."""
    figures = ours.figures[iou_type]
    metrics = ours.metrics[iou_type]
    assert metrics.keys() == package.results.keys()
    pairs = [(np.array(-1.0 if metrics[k] is None else metrics[k]), np.array(v)) for k, v in package.results.items()]
    ap = package.eval["precision"].mean(1).transpose(0, 2, 1)
    recall = package.eval["recall"].transpose(0, 2, 1)
    pairs += [(np.nan_to_num(figures.ap, nan=-1.0), ap), (np.nan_to_num(figures.recall, nan=-1.0), recall)]
    return max(float(np.abs(a - b).max()) for a, b in pairs)
