"""From masks over boxes to run-length encodings over the image, without ever filling a canvas.

Each operation takes all of an image's detections at once: 300 then cost what a few cost one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.detector.run_lengths import compressed

# Sampling by matrix products differs from grid_sample by a few units in the last place of positions up to the mask's
# side; what lies this close to one half is decided by grid_sample itself.
DOUBT = 1e-4


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict[str, object]]:
    """COCO's compressed encodings over (height, width) of mask probabilities (k, s, s) over boxes (k, 4).

    A pixel belongs to a mask when the mask, sampled bilinearly at the pixel's centre, reaches one half. `counts` are
    ASCII strings.
    """
    if not len(masks):
        return []
    probabilities, corners = masks.float().cpu(), boxes.float().cpu().numpy()
    columns = _Axis.of(corners[:, 0], corners[:, 2], width, masks.shape[2])
    rows = _Axis.of(corners[:, 1], corners[:, 3], height, masks.shape[1])
    bits, starts = _sampled(probabilities, columns, rows)
    edges = np.flatnonzero(bits[1:] != bits[:-1]) + 1  # alternately the start and the end of a run
    mask = np.searchsorted(starts, edges, side="right") - 1
    column, row = np.divmod(edges - starts[mask], (rows.size + 2)[mask])
    place = (columns.first[mask] + column) * height + rows.first[mask] + row - 1
    counts, lengths = _run_lengths(place, mask, len(masks), height * width)
    return [{"size": [height, width], "counts": text} for text in compressed(counts, lengths)]


@dataclass(frozen=True)
class _Axis:
    """The pixels around each box (k,) along one axis: the first one, how many, and for all of them, box after box, the
    position in the box, -1 to 1, and the share (pixels, s) that each place of the mask has in the sample."""

    first: np.ndarray
    size: np.ndarray
    position: np.ndarray
    weights: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, low: np.ndarray, high: np.ndarray, limit: int, side: int) -> _Axis:
        first = np.maximum(np.floor(low).astype(np.int64) - 1, 0)
        size = np.maximum(np.minimum(np.ceil(high).astype(np.int64) + 1, limit) - first, 0)
        ends = np.cumsum(size)
        box = np.repeat(np.arange(len(low)), size)
        pixel = np.arange(len(box)) - (ends - size - first)[box]
        position = (pixel.astype(np.float32) + np.float32(0.5) - low[box]) / (high - low)[box] * 2 - 1
        at = ((position + 1) * side - 1) / 2
        near = 1 - np.abs(at[:, None] - np.arange(side, dtype=np.float32))
        return cls(first, size, position, np.maximum(near, 0), ends)

    def part(self, box: int) -> slice:
        return slice(int(self.ends[box] - self.size[box]), int(self.ends[box]))


def _sampled(masks: Tensor, columns: _Axis, rows: _Axis) -> tuple[np.ndarray, np.ndarray]:
    """Every mask's pixels around its box, uint8, column by column with a zero above and below each, so that every run
    starts and ends inside its column; and where each mask starts."""
    lengths = columns.size * (rows.size + 2)
    starts = np.cumsum(lengths) - lengths
    bits = np.zeros(int(lengths.sum()) + 1, np.uint8)
    for box, mask in enumerate(masks.numpy()):
        across, down = columns.part(box), rows.part(box)
        values = columns.weights[across] @ mask.T @ rows.weights[down].T
        window = bits[starts[box] : starts[box] + lengths[box]].reshape(columns.size[box], rows.size[box] + 2)[:, 1:-1]
        np.greater_equal(values, 0.5, out=window.view(bool))
        values -= np.float32(0.5)
        doubtful = np.flatnonzero(np.abs(values, out=values) < DOUBT)
        if len(doubtful):
            x, y = np.divmod(doubtful, rows.size[box])
            grid = np.stack([columns.position[across][x], rows.position[down][y]], 1)
            exact = F.grid_sample(masks[box][None, None], torch.from_numpy(grid)[None, None], align_corners=False)
            window[x, y] = exact[0, 0, 0].numpy() >= 0.5
    return bits, starts


def _run_lengths(place: np.ndarray, mask: np.ndarray, masks: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Alternating lengths of background and foreground of all masks, and how many each has.

    place: alternate starts and ends of runs, counted column by column in an image of `total` pixels; mask: the index
    of the mask that each belongs to.
    """
    # A run may continue from the bottom of one column at the top of the next.
    joined = (place[1:-1:2] == place[2::2]) & (mask[1:-1:2] == mask[2::2])
    kept = np.ones(len(place), bool)
    kept[1:-1:2] = kept[2::2] = ~joined
    place, mask = place[kept], mask[kept]
    edges = np.bincount(mask, minlength=masks)
    bounds = np.cumsum(edges + 2) - (edges + 2)  # of each mask's edges, with 0 before and `total` after them
    at = np.empty(len(place) + 2 * masks, np.int64)
    at[bounds], at[bounds + edges + 1] = 0, total
    at[bounds[mask] + 1 + np.arange(len(place)) - (np.cumsum(edges) - edges)[mask]] = place
    inner = np.ones(len(at), bool)
    inner[bounds] = False
    counts = np.diff(at, prepend=0)
    last = bounds + edges + 1
    inner[last[counts[last] == 0]] = False  # no background after the last run
    return counts[inner], np.add.reduceat(inner, bounds, dtype=np.int64)
