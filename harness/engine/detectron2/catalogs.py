"""Our datasets in detectron2's catalogs, so that its tools, visualiser and evaluator work on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from harness.config import DataConfig
from harness.data.dataset import Dataset
from harness.data.lvis.annotations import Annotations
from harness.engine.contract import Prediction
from harness.evaluate.lvis_compat import numpy_float

PREFIX = "harness_"  # detectron2 registers an lvis_v1_train of its own, with another root


def catalog_name(data: DataConfig) -> str:
    """What a dataset is called in the catalogs, without `_train` or `_val`."""
    return f"{PREFIX}{data.name}"


def describe_classes(name: str, num_classes: int, image_counts: np.ndarray) -> None:
    """Tells detectron2's federated loss how many training images each class has (`name`_train's metadata).

    Extra classes, which have no image counts, count as the most frequent one, like the published code.
    """
    _set(f"{name}_train", class_image_count=class_image_count(num_classes, image_counts))


def class_image_count(num_classes: int, image_counts: np.ndarray) -> list[dict[str, int]]:
    """Training images of every trained class, in detectron2's form."""
    counts = [int(count) for count in image_counts[:num_classes]]
    counts += [max(counts, default=1)] * (num_classes - len(counts))
    return [{"id": i + 1, "image_count": count} for i, count in enumerate(counts)]


def register(data: DataConfig) -> tuple[str, str]:
    """Registers a dataset's training and validation split; returns their names, `harness_<name>_train` and `_val`.

    Their dictionaries are detectron2's standard ones, with LVIS's lists of absent and not exhaustively annotated
    categories. Extra categories of a pool (data.num_classes beyond the dataset's own) are named `extra_<index>`.
    Raises UserError when files are missing.
    """
    dataset, name = Dataset(data), catalog_name(data)
    splits = {"train": (dataset.train, dataset.train_file), "val": (dataset.val, dataset.val_file)}
    for split, (content, file) in splits.items():
        _register_split(f"{name}_{split}", content, file, dataset.image_root, dataset.num_classes)
    return f"{name}_train", f"{name}_val"


def _register_split(name: str, annotations: Annotations, file: Path, images: Path, classes: int) -> None:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: dictionaries(annotations, images))
    own = len(annotations.category_ids)
    names = [str(n) for n in annotations.category_names] + [f"extra_{i}" for i in range(own, classes)]
    last = int(annotations.category_ids.max(initial=0))
    ids = [int(i) for i in annotations.category_ids] + [last + 1 + i for i in range(classes - own)]
    _set(
        name,
        json_file=str(file),
        image_root=str(images),
        evaluator_type="lvis",
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={category: i for i, category in enumerate(ids)},
    )
    if name.endswith("_train"):
        describe_classes(name.removesuffix("_train"), classes, annotations.image_counts)


def _set(name: str, **fields: Any) -> None:
    """Sets metadata fields; detectron2 refuses to change one, so the others are copied into new metadata."""
    known: Mapping[str, Any] = MetadataCatalog.get(name).as_dict() if name in MetadataCatalog.list() else {}
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(**{**{k: v for k, v in known.items() if k != "name"}, **fields})


def dictionaries(annotations: Annotations, images: Path) -> list[dict[str, Any]]:
    """detectron2's standard dataset dictionaries, one an image. Categories are 0-based."""
    return [
        {
            "file_name": str(images / str(annotations.file_names[i])),
            "height": int(annotations.heights[i]),
            "width": int(annotations.widths[i]),
            "image_id": int(annotations.image_ids[i]),
            "neg_category_ids": annotations.category_ids[annotations.negatives_of(i)].tolist(),
            "not_exhaustive_category_ids": annotations.category_ids[annotations.not_exhaustive_of(i)].tolist(),
            "annotations": [_annotation(annotations, a) for a in range(*annotations.image_offsets[i : i + 2].tolist())],
        }
        for i in range(len(annotations.image_ids))
    ]


def _annotation(annotations: Annotations, index: int) -> dict[str, Any]:
    return {
        "bbox": annotations.boxes[index].tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(annotations.annotation_categories[index]),
        "segmentation": _segmentation(annotations, index),
    }


def _segmentation(annotations: Annotations, index: int) -> Any:
    first, last = annotations.rle_offsets[index : index + 2]
    if last > first:
        image = annotations.annotation_images[index]
        size = [int(annotations.heights[image]), int(annotations.widths[image])]
        return {"size": size, "counts": annotations.rle_counts[first:last].tobytes()}
    first, last = annotations.polygon_offsets[index : index + 2]
    bounds = annotations.point_offsets[first : last + 1].tolist()
    return [annotations.coordinates[a:b].tolist() for a, b in pairwise(bounds)]


# ------------------------------------------------------------------------------------------------ its evaluator


def as_instances(found: Prediction, size: tuple[int, int]) -> Instances:
    """A prediction in detectron2's form, for its visualiser and evaluators. size: (height, width) on disk."""
    instances = Instances(size)
    instances.pred_boxes = Boxes(found.boxes)
    instances.scores = found.scores
    instances.pred_classes = found.labels
    masks = coco.decode(found.rles).transpose(2, 0, 1) if found.rles else np.zeros((0, *size), np.uint8)
    instances.pred_masks = torch.from_numpy(np.ascontiguousarray(masks)).bool()
    return instances


def evaluate_with_detectron2(
    name: str, image_ids: Sequence[int], predictions: Sequence[Prediction], sizes: Sequence[tuple[int, int]]
) -> dict[str, dict[str, float]]:
    """AP in percent of a registered dataset by detectron2's LVISEvaluator, which needs the `lvis` package.

    Gives {"bbox": {"AP": ...}, "segm": {...}}.
    """
    from detectron2.evaluation import LVISEvaluator

    evaluator = LVISEvaluator(name, tasks=("bbox", "segm"), distributed=False)
    evaluator.reset()
    for image_id, found, size in zip(image_ids, predictions, sizes, strict=True):
        evaluator.process([{"image_id": int(image_id)}], [{"instances": as_instances(found, size)}])
    with numpy_float():
        results: dict[str, dict[str, float]] = evaluator.evaluate()
    return results
