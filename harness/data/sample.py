"""What travels from a loader worker to the training step: views of images with their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, zip_longest

import numpy as np
import torch
from torch import Tensor

Move = Callable[[Tensor], Tensor]  # gives a tensor's copy elsewhere


def _one_by_one(device: torch.device | str) -> Move:
    return lambda tensor: tensor.to(device, non_blocking=True)


def views_in(block: Tensor, copied: Tensor) -> Move:
    """Maps a contiguous tensor inside `block` (bytes,) uint8 to the same tensor inside a copy of that block."""

    def move(tensor: Tensor) -> Tensor:
        begin = tensor.data_ptr() - block.data_ptr()
        part = copied[begin : begin + tensor.nbytes] if tensor.numel() else copied[:0]
        return part.view(tensor.dtype).view(tensor.shape)

    return move


@dataclass
class Masks:
    """Instance masks cut to windows, so that an instance costs its box, not the image.

    crops (n, h, w) uint8 0/1, zero beyond each instance's own window; h and w are the largest window of the image.
    origin (n, 2) int32: x, y of each crop's corner in the image. size: (H, W) of the image.
    """

    crops: Tensor
    origin: Tensor
    size: tuple[int, int]

    @classmethod
    def empty(cls, height: int, width: int) -> Masks:
        """No instances, in an image of this size."""
        return cls(torch.zeros(0, 1, 1, dtype=torch.uint8), torch.zeros(0, 2, dtype=torch.int32), (height, width))

    @classmethod
    def from_full(cls, full: Tensor) -> Masks:
        """From (n, H, W) masks over the whole image."""
        full = full.bool()
        n, height, width = full.shape
        if n == 0:
            return cls.empty(height, width)
        rows, columns = full.any(2), full.any(1)
        y0, x0 = rows.int().argmax(1), columns.int().argmax(1)
        y1 = height - rows.flip(1).int().argmax(1)
        x1 = width - columns.flip(1).int().argmax(1)
        hidden = ~rows.any(1)
        y1[hidden], x1[hidden] = y0[hidden], x0[hidden]
        crops = torch.zeros(n, max(int((y1 - y0).max()), 1), max(int((x1 - x0).max()), 1), dtype=torch.uint8)
        for i in range(n):
            part = full[i, y0[i] : y1[i], x0[i] : x1[i]]
            crops[i, : part.shape[0], : part.shape[1]] = part
        return cls(crops, torch.stack([x0, y0], 1).int(), (height, width))

    def full(self) -> Tensor:
        """(n, H, W) uint8 over the whole image."""
        height, width = self.size
        n, h, w = self.crops.shape
        out = torch.zeros(n, height + h, width + w, dtype=torch.uint8)
        for i, (x, y) in enumerate(self.origin.tolist()):
            out[i, y : y + h, x : x + w] = self.crops[i]
        return out[:, :height, :width]

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, keep: Tensor) -> Masks:
        return Masks(self.crops[keep], self.origin[keep], self.size)

    def moved(self, move: Move) -> Masks:
        return Masks(move(self.crops), move(self.origin), self.size)


@dataclass
class Outlines:
    """Instance masks as polygons in a view, which may reach beyond it; they stay on the host.

    coordinates float64 x, y, x, y ... of all polygons; polygon i is coordinates[points[i] : points[i + 1]], instance j
    has the polygons polygons[j]..polygons[j + 1] - 1. rows (n,) int64: the instances that these are. size: (H, W).
    """

    coordinates: Tensor
    points: Tensor
    polygons: Tensor
    rows: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, outlines: Sequence[Sequence[np.ndarray]], size: tuple[int, int]) -> Outlines:
        """From a list of polygons, x, y, x, y ... each, for every instance."""
        flat = [polygon for outline in outlines for polygon in outline]
        return cls(
            torch.from_numpy(np.concatenate([np.zeros(0), *flat])),
            _offsets([len(polygon) for polygon in flat]),
            _offsets([len(outline) for outline in outlines]),
            torch.arange(len(outlines)),
            size,
        )

    def polygons_of(self, instance: int) -> list[np.ndarray]:
        """The polygons of an instance, float64 x, y, x, y ... each."""
        row = int(self.rows[instance])
        bounds = self.points[int(self.polygons[row]) : int(self.polygons[row + 1]) + 1].tolist()
        return [self.coordinates[a:b].numpy() for a, b in pairwise(bounds)]

    def full(self) -> Tensor:
        """(n, H, W) uint8 over the whole image, rasterised the way COCO does."""
        height, width = self.size
        parts = [torch.from_numpy(rasterised(self.polygons_of(i), height, width)) for i in range(len(self))]
        return torch.stack(parts) if parts else torch.zeros(0, height, width, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keep: Tensor) -> Outlines:
        return replace(self, rows=self.rows[keep.cpu()])

    def moved(self, move: Move) -> Outlines:
        return self  # polygons stay on the host


def rasterised(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """(height, width) uint8 0/1: the union of polygons as COCO draws it."""
    from pycocotools import mask as mask_utils

    mask: np.ndarray = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(list(polygons), height, width)))
    return mask


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)])


@dataclass
class Targets:
    """Ground truth of one image.

    boxes (n, 4) float32 xyxy pixels; labels (n,) int64 0-based categories; masks; pasted (n,) bool;
    pool_row (n,) int64, the row of the pool that `Method.prepare` returned, -1 for a real instance.
    """

    boxes: Tensor
    labels: Tensor
    masks: Masks | Outlines
    pasted: Tensor
    pool_row: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Tensor) -> Targets:
        return Targets(self.boxes[keep], self.labels[keep], self.masks[keep], self.pasted[keep], self.pool_row[keep])

    def moved(self, move: Move) -> Targets:
        return Targets(
            move(self.boxes), move(self.labels), self.masks.moved(move), move(self.pasted), move(self.pool_row)
        )

    def to(self, device: torch.device | str) -> Targets:
        """A copy on a device."""
        return self.moved(_one_by_one(device))


@dataclass
class View:
    """An image (3, H, W) uint8 RGB and its targets."""

    image: Tensor
    targets: Targets

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    def moved(self, move: Move) -> View:
        return View(move(self.image), self.targets.moved(move))

    def to(self, device: torch.device | str) -> View:
        """A copy on a device."""
        return self.moved(_one_by_one(device))


@dataclass
class Sample:
    """One training position.

    augmented is None if nothing was drawn or nothing of it survived. references are those that the method asked for;
    one is None if its crop left no instances and the method keeps no such image. drawn_rows (k,)
    int64 are the pool rows that the method drew. skipped counts pool images that could not be read, by fault.
    """

    position: int
    image_index: int
    original: View
    augmented: View | None = None
    references: tuple[View | None, ...] = ()
    drawn_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass
class Batch:
    """The samples of one rank's step. block (bytes,) uint8: where all of their views' tensors lie, if in one place."""

    samples: list[Sample]
    block: Tensor | None = None

    @property
    def original(self) -> list[View]:
        """The original view of each image."""
        return [sample.original for sample in self.samples]

    @property
    def augmented(self) -> list[View]:
        """The pasted view of each image, the original one where nothing was pasted."""
        return [sample.augmented or sample.original for sample in self.samples]

    @property
    def reference(self) -> list[View]:
        """The first reference image of every sample, then the second ones, and so on."""
        rounds = zip_longest(*(sample.references for sample in self.samples))
        return [view for each in rounds for view in each if view is not None]

    @property
    def has_pasted(self) -> Tensor:
        """(n,) bool, on the CPU: which images have an augmented view."""
        return torch.tensor([sample.augmented is not None for sample in self.samples])

    def to(self, device: torch.device | str) -> Batch:
        """A copy on a device. A block goes to a GPU in one piece from pinned memory, so that the host need not wait."""
        if self.block is None or torch.device(device).type == "cpu":
            return self.moved(_one_by_one(device))
        return self.moved(views_in(self.block, self.block.pin_memory().to(device, non_blocking=True)))

    def moved(self, move: Move) -> Batch:
        def moved(view: View | None) -> View | None:
            return None if view is None else view.moved(move)

        return Batch(
            [
                replace(
                    sample,
                    original=sample.original.moved(move),
                    augmented=moved(sample.augmented),
                    references=tuple(moved(view) for view in sample.references),
                )
                for sample in self.samples
            ]
        )
