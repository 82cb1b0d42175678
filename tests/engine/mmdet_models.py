"""Small models of mmdet's own configurations, images with instances, and both packed as mmdet's pipelines do."""

import numpy as np
import torch
from torchvision.ops import masks_to_boxes

from harness.compose import compose
from harness.config import EngineConfig, RunConfig
from harness.data.sample import Masks, Targets, View
from harness.engine import create
from harness.engine.mmdet.engine import MmdetEngine

CLASSES = 24

SLIM = [
    "model.backbone.depth=18",
    "model.backbone.init_cfg=null",
    "model.neck.in_channels=[64,128,256,512]",
    "model.neck.out_channels=16",
    "model.rpn_head.in_channels=16",
    "model.rpn_head.feat_channels=16",
    "model.roi_head.bbox_roi_extractor.out_channels=16",
    "model.roi_head.mask_roi_extractor.out_channels=16",
    "model.roi_head.mask_head.in_channels=16",
    "model.roi_head.mask_head.conv_out_channels=16",
    "model.roi_head.mask_head.num_convs=1",
    "model.train_cfg.rpn_proposal.max_per_img=60",
    "model.test_cfg.rpn.max_per_img=40",
    "model.test_cfg.rcnn.score_thr=0.0402",
    "model.test_cfg.rcnn.max_per_img=20",
]
ONE_STAGE = [
    "model.roi_head.bbox_head.in_channels=16",
    "model.roi_head.bbox_head.fc_out_channels=32",
    "model.train_cfg.rcnn.sampler.num=32",
]
THREE_STAGES = [
    "model.train_cfg.rpn.allowed_border=-1",  # images are smaller than anchors
    *(
        text
        for stage in range(3)
        for text in (
            f"model.roi_head.bbox_head.{stage}.in_channels=16",
            f"model.roi_head.bbox_head.{stage}.fc_out_channels=32",
            f"model.train_cfg.rcnn.{stage}.sampler.num=32",
        )
    ),
]
BOXES = [text for text in SLIM if "mask" not in text]
MODELS = {
    "mask_rcnn": ("mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1", [*SLIM, *ONE_STAGE]),
    "cascade": ("cascade-mask-rcnn_r50_fpn_1x_coco", [*SLIM, *THREE_STAGES]),
    "boxes": ("faster-rcnn_r50_fpn_giou_1x_coco", [*BOXES, *ONE_STAGE]),
    "seesaw": ("mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1", [*SLIM, *ONE_STAGE]),
}


def run_config(model: str, *further: str) -> RunConfig:
    config = compose(["engine=mmdet", "schedule.precision=fp32", "schedule.channels_last=false"]).config
    name, overrides = MODELS[model]
    config.engine = EngineConfig("mmdet", name, [*overrides, *further])
    return config


def make_engine(model: str, *further: str) -> MmdetEngine:
    torch.manual_seed(0)
    engine = create(run_config(model, *further), CLASSES, np.full(CLASSES, 10))
    assert isinstance(engine, MmdetEngine)
    return engine


def make_view(instances: int, seed: int, size: tuple[int, int] = (96, 80)) -> View:
    """Rectangles on noise, every other one pasted."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.zeros(instances, *size, dtype=torch.uint8)
    for mask in masks:
        x, y = torch.randint(0, 40, (2,), generator=rng).tolist()
        w, h = torch.randint(12, 36, (2,), generator=rng).tolist()
        mask[y : y + h, x : x + w] = 1
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1
    labels = torch.randint(0, CLASSES, (instances,), generator=rng)
    pasted = torch.arange(instances) % 2 == 1
    image = torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8)
    return View(image, Targets(boxes, labels, Masks.from_full(masks), pasted, torch.full((instances,), -1)))


def packed(views: list[View], on_disk: list[tuple[int, int]] | None = None) -> dict[str, list]:
    """What mmdet's loader hands to a model, by the last step of its own pipeline."""
    from mmdet.datasets.transforms import PackDetInputs
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    keys = ("img_shape", "ori_shape", "scale_factor")
    each = []
    for place, view in enumerate(views):
        disk = on_disk[place] if on_disk else view.size
        targets = view.targets
        content = {
            "img": np.ascontiguousarray(view.image.permute(1, 2, 0).numpy()[..., ::-1]),
            "img_shape": view.size,
            "ori_shape": disk,
            "scale_factor": (view.size[1] / disk[1], view.size[0] / disk[0]),
            "gt_bboxes": HorizontalBoxes(targets.boxes.clone()),
            "gt_bboxes_labels": targets.labels.numpy(),
            "gt_masks": BitmapMasks(targets.masks.full().numpy(), *view.size),
            "gt_ignore_flags": np.zeros(len(targets), bool),
        }
        each.append(PackDetInputs(meta_keys=keys).transform(content))
    return {"inputs": [e["inputs"] for e in each], "data_samples": [e["data_samples"] for e in each]}
