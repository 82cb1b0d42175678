"""Our views and predictions as mmdet's data samples, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, encode_mask_results
from mmengine.structures import InstanceData
from torch import Tensor

from harness.data.sample import View
from harness.engine.contract import Prediction

Packed = dict[str, list[Tensor] | list[DetDataSample]]


def training_data(views: Sequence[View]) -> Packed:
    """What mmdet's data preprocessor takes: images BGR, as mmdet decodes them, and samples with boxes and masks."""
    samples = []
    for view in views:
        sample = _sample(view.size, view.size)
        targets = view.targets
        masks = targets.to("cpu").masks.full().numpy()
        sample.gt_instances = InstanceData(
            bboxes=targets.boxes, labels=targets.labels, masks=BitmapMasks(masks, *view.size)
        )
        samples.append(sample)
    return {"inputs": [view.image.flip(0) for view in views], "data_samples": samples}


def test_data(images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Packed:
    """Images (3, h, w) uint8 RGB without truth; `sizes` are (height, width) on disk."""
    samples = [
        _sample((int(image.shape[1]), int(image.shape[2])), size) for image, size in zip(images, sizes, strict=True)
    ]
    return {"inputs": [image.flip(0) for image in images], "data_samples": samples}


def _sample(input_size: tuple[int, int], size: tuple[int, int]) -> DetDataSample:
    sample = DetDataSample(
        metainfo={
            "img_shape": input_size,
            "ori_shape": size,
            "scale_factor": (input_size[1] / size[1], input_size[0] / size[0]),
        }
    )
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return sample


def prediction(found: InstanceData, size: tuple[int, int]) -> Prediction:
    """Detections of one image, at its size (height, width) on disk, on the host. Of a model without masks they are
    empty."""
    found = found.to("cpu")
    masks = found.masks.numpy() if "masks" in found else np.zeros((len(found), *size), bool)
    return Prediction(
        boxes=found.bboxes.float(),
        scores=found.scores.float(),
        labels=found.labels.long(),
        encode=lambda: [{**each, "counts": each["counts"].decode("ascii")} for each in encode_mask_results(masks)],
    )
