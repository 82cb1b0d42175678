"""Our datasets in detectron2's catalogs, its visualiser on them, and its evaluator against ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed; docs/how-to/engines.md says how to get it")

import cv2
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.utils.visualizer import Visualizer

from harness.compose import compose
from harness.config import DataConfig
from harness.data.dataset import Dataset
from harness.data.lvis.annotations import rasterise, segmentation_rle
from harness.engine.contract import Prediction
from harness.engine.detectron2.catalogs import as_instances, evaluate_with_detectron2, register
from harness.evaluate.lvis_ap import evaluate
from harness.run.evaluation import _columns


@pytest.fixture(scope="module")
def data(mini_root: Path) -> DataConfig:
    return compose(["data=mini"]).config.data


@pytest.fixture(scope="module")
def names(data: DataConfig) -> tuple[str, str]:
    return register(data)


def test_dictionaries_are_those_of_detectron2s_own_reader(data: DataConfig, names: tuple[str, str]) -> None:
    pytest.importorskip("lvis")
    from detectron2.data.datasets.lvis import load_lvis_json

    ours = DatasetCatalog.get(names[1])
    theirs = load_lvis_json(str(Dataset(data).val_file), str(Dataset(data).image_root))
    assert len(ours) == len(theirs) > 50
    for own, other in zip(ours, theirs, strict=True):
        assert Path(own["file_name"]).is_file()
        for key in ("height", "width", "image_id", "neg_category_ids", "not_exhaustive_category_ids"):
            assert own[key] == other[key]
        for a, b in zip(own["annotations"], other["annotations"], strict=True):
            assert a["category_id"] == b["category_id"]
            assert a["bbox"] == b["bbox"]


def test_detectron2s_mapper_and_visualiser_work_on_them(names: tuple[str, str]) -> None:
    entry = next(e for e in DatasetCatalog.get(names[0]) if e["annotations"])
    mapped = DatasetMapper(
        is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True, instance_mask_format="bitmask"
    )(entry)
    assert len(mapped["instances"]) == len(entry["annotations"])
    picture = cv2.imread(entry["file_name"])[:, :, ::-1]
    drawn = Visualizer(picture, MetadataCatalog.get(names[0])).draw_dataset_dict(entry).get_image()
    assert (drawn != picture).any()


def test_extra_categories_are_behind_the_datasets_own(data: DataConfig, mini_root: Path) -> None:
    own = len(Dataset(data).val.category_ids)
    extended = dataclasses.replace(data, name="mini_extended", root=str(mini_root), num_classes=own + 3)
    metadata = MetadataCatalog.get(register(extended)[0])
    assert len(metadata.thing_classes) == own + 3
    assert metadata.thing_classes[-1] == f"extra_{own + 2}"
    counts = [each["image_count"] for each in metadata.class_image_count]
    assert counts[own:] == [max(counts[:own])] * 3


def test_detectron2s_evaluator_and_ours_agree(data: DataConfig, names: tuple[str, str]) -> None:
    """On detections that are partly right: shifted instances with noisy scores, some of a wrong category."""
    pytest.importorskip("lvis")
    annotations = Dataset(data).val
    rng = np.random.default_rng(0)
    predictions, sizes = [], []
    for image in range(len(annotations.image_ids)):
        size = int(annotations.heights[image]), int(annotations.widths[image])
        sizes.append(size)
        predictions.append(_noisy(annotations, image, rng, size))
    with_theirs = evaluate_with_detectron2(names[1], annotations.image_ids.tolist(), predictions, sizes)
    columns, _ = _columns(list(range(len(predictions))), predictions, annotations)
    # detectron2 takes boxes away before it evaluates masks, so that a mask's size is its own area.
    with_ours = evaluate(annotations, columns, mask_area=True).metrics
    for kind, figures in with_theirs.items():
        for name, figure in figures.items():
            own = with_ours[kind][name]
            assert figure == pytest.approx(-100 if own is None else 100 * own, abs=1e-9), (kind, name)
    assert 0.05 < with_ours["bbox"]["AP"] < 0.95


def _noisy(annotations, image: int, rng: np.random.Generator, size: tuple[int, int]) -> Prediction:  # type: ignore[no-untyped-def]
    boxes, labels, masks = [], [], []
    for a in range(*annotations.annotations_of(image).indices(10**9)):
        x, y, w, h = annotations.boxes[a] + rng.normal(0, 1.5, 4)
        boxes.append([x, y, x + max(w, 1), y + max(h, 1)])
        wrong = rng.random() < 0.15
        labels.append(
            int(rng.integers(len(annotations.category_ids))) if wrong else annotations.annotation_categories[a]
        )
        rle = segmentation_rle(annotations, a)
        masks.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    scores = torch.tensor(np.sort(rng.random(len(boxes)))[::-1].copy(), dtype=torch.float32)
    tensor = torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))
    return Prediction(tensor, scores, torch.tensor(np.array(labels, np.int64)), lambda: masks)


def test_predictions_can_be_drawn(data: DataConfig, names: tuple[str, str]) -> None:
    annotations = Dataset(data).val
    size = int(annotations.heights[0]), int(annotations.widths[0])
    found = _noisy(annotations, 0, np.random.default_rng(0), size)
    instances = as_instances(found, size)
    first = annotations.annotations_of(0).start
    assert np.array_equal(instances.pred_masks[0].numpy(), rasterise(annotations, first))
    blank = np.zeros((*size, 3), np.uint8)
    assert Visualizer(blank, MetadataCatalog.get(names[1])).draw_instance_predictions(instances).get_image().any()


def test_detectron2s_evaluator_still_needs_numpys_former_name(data: DataConfig, names: tuple[str, str]) -> None:
    """When this fails, the lvis package is mended, and `harness.evaluate.lvis_compat` can go."""
    pytest.importorskip("lvis")
    from detectron2.evaluation import LVISEvaluator

    annotations = Dataset(data).val
    size = int(annotations.heights[0]), int(annotations.widths[0])
    evaluator = LVISEvaluator(names[1], tasks=("bbox",), distributed=False)
    evaluator.reset()
    found = as_instances(_noisy(annotations, 0, np.random.default_rng(0), size), size)
    evaluator.process([{"image_id": int(annotations.image_ids[0])}], [{"instances": found}])
    with pytest.raises(AttributeError, match="float"):
        evaluator.evaluate()
