"""A batch's ground truth, padded to the same number of instances, so that targets are assigned without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.data.sample import Targets


@dataclass(frozen=True)
class Truth:
    """n images, G the largest number of instances (at least 1).

    boxes (n, G, 4) xyxy pixels; labels (n, G) int64; pasted (n, G) bool; present (n, G) bool, False for padding;
    counts: instances of each image; sizes (n, 2) H, W of each image in the boxes' dtype.
    """

    boxes: Tensor
    labels: Tensor
    pasted: Tensor
    present: Tensor
    counts: list[int]
    sizes: Tensor


def padded(targets: Sequence[Targets], sizes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Truth:
    """The targets of n images with sizes (H, W) as one structure on their device."""
    device = targets[0].boxes.device
    counts = [len(target) for target in targets]
    most = max(1, *counts)

    def stack(parts: list[Tensor]) -> Tensor:
        together = pad_sequence(parts, batch_first=True)
        missing = most - together.shape[1]  # only where the whole batch is without an instance
        return together if not missing else together.new_zeros(len(parts), most, *together.shape[2:])

    return Truth(
        boxes=stack([target.boxes.to(dtype) for target in targets]),
        labels=stack([target.labels for target in targets]),
        pasted=stack([target.pasted for target in targets]),
        present=stack([torch.ones_like(target.pasted) for target in targets]),
        counts=counts,
        sizes=on_device(torch.tensor(sizes, dtype=dtype), device),
    )


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small host tensor on the device, without waiting for what the device is doing."""
    return tensor.to(device, non_blocking=True)
