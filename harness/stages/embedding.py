"""Features of every instance by the backbone: its last level, averaged over the instance's pixels."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import PIXEL_MEAN
from harness.data.paste.cutout import FaultyInstance, isolate
from harness.data.pool.pool import InstancePool
from harness.engine.contract import Engine
from harness.stages.chunks import Chunk

IMAGES_AT_ONCE = 16


class Embedding:
    """(k, D) float16 features of a chunk's instances; a line of NaN for one that could not be read.

    An instance lies in the middle of a square of `size` pixels of the mean colour, which its longer side fills.
    """

    def __init__(self, engine: Engine, pool: InstancePool, size: int) -> None:
        self.engine, self.pool, self.size = engine, pool, size
        self.device = next(engine.module.parameters()).device

    def __call__(self, chunk: Chunk) -> np.ndarray:
        opened = [self._open(row) for row in chunk.rows.tolist()]
        found = [place for place, each in enumerate(opened) if each is not None]
        parts = [found[i : i + IMAGES_AT_ONCE] for i in range(0, len(found), IMAGES_AT_ONCE)] or [[]]
        known = [self._features([each for i in part if (each := opened[i]) is not None]) for part in parts]
        features = np.full((len(chunk.rows), known[0].shape[1]), np.nan, np.float16)
        features[found] = np.concatenate(known)
        return features

    def _open(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(size, size, 3) uint8 RGB and (size, size) float32 opacity in 0..1."""
        try:
            cut = isolate(self.pool.open(row), f"row {row}")[0].rgba
        except FaultyInstance:
            return None
        return centred(cut, self.size)

    @torch.no_grad()
    def _features(self, opened: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        blank = np.zeros((self.size, self.size, 3), np.uint8)
        images = [torch.from_numpy(image).permute(2, 0, 1).to(self.device) for image, _ in opened]
        # Without an instance, the number of channels is asked of an empty square.
        levels = self.engine.backbone_features(images or [torch.from_numpy(blank).permute(2, 0, 1).to(self.device)])
        if not opened:
            return np.zeros((0, levels.shape[1]), np.float16)
        opacity = torch.from_numpy(np.stack([alpha for _, alpha in opened])).to(self.device)
        pooled: np.ndarray = averaged(levels.float(), opacity).half().cpu().numpy()
        return pooled


def centred(rgba: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """An instance (h, w, 4) in the middle of a square of the mean colour: RGB uint8 and opacity float32 in 0..1."""
    height, width = rgba.shape[:2]
    scale = size / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(rgba, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = (size - shape[0]) // 2, (size - shape[1]) // 2
    alpha = np.zeros((size, size), np.float32)
    alpha[y : y + shape[1], x : x + shape[0]] = resized[..., 3] / 255
    image = np.broadcast_to(np.array(PIXEL_MEAN, np.float32), (size, size, 3)).copy()
    window = image[y : y + shape[1], x : x + shape[0]]
    weight = resized[..., 3:].astype(np.float32) / 255
    window[:] = weight * resized[..., :3] + (1 - weight) * window
    return image.round().astype(np.uint8), alpha


def averaged(features: Tensor, opacity: Tensor) -> Tensor:
    """(n, C) means of features (n, C, h, w) over the instances that opacity (n, H, W) shows."""
    weight = F.interpolate(opacity[:, None], features.shape[-2:], mode="area")
    return (features * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)
