"""The class-agnostic mask head (1703.06870) and its training targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import DetectorConfig
from harness.data.sample import Masks, Outlines, rasterised
from harness.detector.boxes import full_precision
from harness.detector.cascade import Matches, Rois
from harness.detector.ground_truth import Truth
from harness.detector.roi_align import align, pool
from methods.contract import Loss, LossKind

SMALLEST_SIDE = 0.1  # pixels of a box that polygons are scaled to

MOST_PIXELS = 2**24  # of masks' windows at a time, four bytes each and as much again while they are made


class MaskHead(nn.Sequential):
    """Pooled features (R, C, s, s) to mask logits (R, 1, 2s, 2s)."""

    def __init__(self, config: DetectorConfig, strides: Sequence[int]) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = config.channels
        for index in range(config.mask_convs):
            layers[f"mask_fcn{index + 1}"] = nn.Conv2d(width, config.mask_channels, 3, padding=1)
            layers[f"mask_relu{index + 1}"] = nn.ReLU()
            width = config.mask_channels
        layers["deconv"] = nn.ConvTranspose2d(width, config.mask_channels, 2, stride=2)
        layers["deconv_relu"] = nn.ReLU()
        layers["predictor"] = nn.Conv2d(config.mask_channels, 1, 1)
        super().__init__(layers)
        self.config, self.strides = config, list(strides)
        for name, layer in layers.items():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if name == "predictor":
                nn.init.normal_(layer.weight, std=0.001)  # type: ignore[arg-type]

    def logits(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """(R, 2s, 2s) mask logits of boxes (R, 4) in the images of index `image` (R,)."""
        config = self.config
        pooled = pool(
            features, self.strides, boxes, image, config.mask_resolution, config.canonical_size, config.roi_align
        )
        return full_precision(self(pooled))[:, 0]

    def losses(
        self, features: Sequence[Tensor], rois: Rois, matches: Matches, truth: Truth, masks: Sequence[Masks | Outlines]
    ) -> dict[str, Loss]:
        """Binary cross-entropy over the pixels of the foreground regions."""
        # The one wait for the device in a forward pass: the convolutions are worth more than it costs.
        foreground = matches.foreground.nonzero().squeeze(1)
        logits = self.logits(features, rois.boxes[foreground], rois.image[foreground])
        target = self.targets(rois, matches, masks)[foreground].to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((1, 2))
        each = torch.zeros_like(rois.boxes[:, 0]).index_put((foreground,), each)
        pixels = (2 * self.config.mask_resolution) ** 2
        return {
            "loss_mask": Loss(
                LossKind.MASK,
                sum=rois.per_image(each),
                count=pixels * rois.per_image(matches.foreground.to(each.dtype)),
                pasted=rois.per_image(each * matches.pasted(rois, truth)),
                attribution=matches.attribution(rois, truth, each, pixels),
            )
        }

    @torch.no_grad()
    def targets(self, rois: Rois, matches: Matches, masks: Sequence[Masks | Outlines]) -> Tensor:
        """(R, 2s, 2s) bool, each foreground region's part of the mask that it was matched to."""
        boxes = torch.where(matches.foreground[:, None], rois.boxes, 0.0)
        resolution = 2 * self.config.mask_resolution
        parts = []
        instances = matches.instance.split(rois.lengths)
        for mask, instance, box in zip(masks, instances, boxes.split(rois.lengths), strict=True):
            if isinstance(mask, Outlines):
                parts.append(drawn_in(mask, instance, box, resolution))
            else:
                parts.append(crop_and_resize(mask, instance, box, resolution))
        return torch.cat(parts)


def crop_and_resize(masks: Masks, instance: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """(R, resolution, resolution) bool: the masks of these instances (R,) in boxes (R, 4), at least half covered.

    Equal to RoIAlign over masks of the whole image, which each box's own sampling grid covers densely. Empty boxes
    cost nothing. Windows beyond `MOST_PIXELS` are processed in turn, so that a dense image needs no more memory.
    """
    found = torch.zeros(len(boxes), resolution, resolution, dtype=torch.bool, device=boxes.device)
    if not len(masks):
        return found
    at_once = max(1, MOST_PIXELS // masks.crops[0].numel())
    if at_once >= len(masks):
        return _cropped(masks, instance, boxes, resolution)
    for start in range(0, len(masks), at_once):
        end = min(start + at_once, len(masks))
        rows = ((instance >= start) & (instance < end)).nonzero().squeeze(1)
        part = Masks(masks.crops[start:end], masks.origin[start:end], masks.size)
        found[rows] = _cropped(part, instance[rows] - start, boxes[rows], resolution)
    return found


def _cropped(masks: Masks, instance: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    windows, corner = _windows(masks)
    shifted = boxes.float() - corner.repeat(1, 2)[instance]
    rois = torch.cat([instance[:, None].float(), shifted], 1)
    return align(windows[:, None], rois, resolution, 1.0)[:, 0] >= 0.5


def drawn_in(outlines: Outlines, instance: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """(R, resolution, resolution) bool: the polygons of these instances (R,), scaled to their boxes (R, 4) and drawn
    there as COCO does it. Empty boxes cost nothing. Source: detectron2's targets from polygons.
    """
    drawn = torch.zeros(len(boxes), resolution, resolution, dtype=torch.bool)
    for region, (x0, y0, x1, y1) in enumerate(boxes.double().tolist()):
        if x1 <= x0 or y1 <= y0:
            continue
        scale = np.array([resolution / max(x1 - x0, SMALLEST_SIDE), resolution / max(y1 - y0, SMALLEST_SIDE)])
        moved = [
            ((polygon.reshape(-1, 2) - (x0, y0)) * scale).reshape(-1)
            for polygon in outlines.polygons_of(int(instance[region]))
        ]
        drawn[region] = torch.from_numpy(rasterised(moved, resolution, resolution)).bool()
    return drawn.to(boxes.device)


def _windows(masks: Masks) -> tuple[Tensor, Tensor]:
    """Masks (n, h, w) float32 in windows of the image that leave a pixel around them, and the windows' corners (n, 2).

    RoIAlign repeats the outermost pixels for half a step and then gives zero, so a window must end in zeros except
    where the image ends: there it must end too. Hence windows are moved into the image, not padded.
    """
    height, width = masks.size
    h, w = masks.crops.shape[1:]
    device = masks.crops.device
    out_h, out_w = min(height, h + 2), min(width, w + 2)
    x0, y0 = masks.origin.long().unbind(1)
    left, top = (x0 - 1).clamp(0, width - out_w), (y0 - 1).clamp(0, height - out_h)
    rows = torch.arange(out_h, device=device) + (top - y0)[:, None]
    columns = torch.arange(out_w, device=device) + (left - x0)[:, None]
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    each = torch.arange(len(masks), device=device)[:, None, None]
    taken = masks.crops[each, rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None, :]]
    return torch.where(inside, taken.float(), 0.0), torch.stack([left, top], 1).float()
