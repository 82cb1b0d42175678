"""Moving a batch from a loader worker to the training process in one block of shared memory.

A batch holds some twenty tensors an image; sent one by one each would cost a file descriptor and a system call.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.sample import Batch

ALIGNMENT = 64  # bytes


@dataclass
class PackedBatch:
    """A pickled batch without its tensors' contents, which lie in `block` (bytes,) uint8 at `spans` (start, end)."""

    structure: bytes
    block: Tensor
    spans: list[tuple[int, int]]


def pack(batch: Batch) -> PackedBatch:
    """Copies a batch's tensors into one block of shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5, buffer_callback=buffers.append)
    pickler.dispatch_table = copyreg.dispatch_table | {Tensor: _as_array}
    pickler.dump(Batch(batch.samples))
    spans, end = [], 0
    for buffer in buffers:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + buffer.raw().nbytes
        spans.append((start, end))
    block = torch.empty(end, dtype=torch.uint8).share_memory_()
    flat = block.numpy()
    for (start, stop), buffer in zip(spans, buffers, strict=True):
        flat[start:stop] = np.frombuffer(buffer.raw(), np.uint8)
    return PackedBatch(stream.getvalue(), block, spans)


def unpack(packed: PackedBatch) -> Batch:
    """The batch, its tensors being views of the block, which it keeps."""
    block = packed.block.numpy()
    batch: Batch = pickle.loads(packed.structure, buffers=[block[start:end] for start, end in packed.spans])
    batch.block = packed.block
    return batch


def _as_array(tensor: Tensor) -> tuple[Any, tuple[np.ndarray]]:
    return torch.from_numpy, (tensor.numpy(),)
