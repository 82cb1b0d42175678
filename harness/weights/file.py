"""Reading files of weights without executing code, and writing them."""

from __future__ import annotations

import codecs
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from harness.errors import UserError, first_line
from harness.record.files import write_atomically
from harness.weights.checked_pickle import read_pickle, read_torch
from harness.weights.runner_logs import readable_logs

# Where a checkpoint keeps its model: the moving average, and the raw weights.
AVERAGED, RAW = "model_ema", ("model", "state_dict")
MOST_REPEATED_BYTES = 2**31
MODEL_KEYS = (AVERAGED, *RAW)


@dataclass(frozen=True)
class Weights:
    """Tensors by their names in the file; `part` is the entry that they were taken from, "" for the file itself."""

    path: Path
    tensors: dict[str, Tensor]
    part: str
    parts: tuple[str, ...]

    @property
    def source(self) -> str:
        """The file's name, and the entry in brackets."""
        return f"{self.path.name}{f' ({self.part})' if self.part else ''}"


def read_weights(path: Path, *, averaged: bool = True) -> Weights:
    """Reads a PyTorch checkpoint, a detectron2 pickle or safetensors, of both the EMA where `averaged`, else the raw.

    Nothing in the file is executed: a pickle that asks for more than arrays is refused. Raises UserError.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        content = READERS.get(path.suffix, _read_torch)(path)
    except (pickle.UnpicklingError, AttributeError, ImportError) as error:
        raise UserError(f"{path} holds something other than weights, and is not read: {first_line(error)}") from error
    except Exception as error:  # readers of damaged bytes raise of any kind
        raise UserError(f"{path} is damaged or not a file of weights: {first_line(error)}") from error
    parts = tuple(key for key in MODEL_KEYS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping))
    chosen = next((key for key in parts if averaged or key != AVERAGED), parts[0] if parts else "")
    found = content[chosen] if chosen else content
    tensors = _tensors(found) if isinstance(found, Mapping) else {}
    # A view that repeats its numbers is a few bytes in a file, and as large as it likes in memory.
    if sum(map(_nbytes, tensors.values())) > max(MOST_REPEATED_BYTES, path.stat().st_size):
        raise UserError(f"{path} holds tensors that are larger than the file; save them contiguous, not as views")
    if not tensors:
        raise UserError(f"{path} holds no weights; expected named tensors, or an entry {' or '.join(MODEL_KEYS)}")
    return Weights(path, tensors, chosen, parts)


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes `{"model": tensors}`: as a pickle of arrays for .pkl, else as PyTorch does."""
    with write_atomically(path) as temporary:
        if path.suffix == ".pkl":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            temporary.write_bytes(pickle.dumps({"model": arrays, "__author__": "bsgal-bench"}))
        else:
            torch.save({"model": dict(tensors)}, temporary)


def _tensors(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in found.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if isinstance(value, Tensor):
            tensors[str(name).removeprefix("module.")] = value
    return tensors


def _nbytes(value: Tensor) -> float:
    """What a tensor's numbers take, endless for one that is not an array of them."""
    is_array = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    return value.numel() * value.element_size() if is_array else math.inf


# ------------------------------------------------------------------------------------------------ restricted reading

# The modules that NumPy's pickles name: its parts moved with version 2.
_NUMPY_PARTS = ("numpy.core.multiarray", "numpy._core.multiarray")
_DTYPES = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType")]


def _read_torch(path: Path) -> Any:
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [(scalar, f"{part}.scalar") for part in _NUMPY_PARTS]
    harmless += [np.dtype, *_DTYPES, (codecs.encode, "_codecs.encode")]
    # Schedulers of published checkpoints hold NumPy numbers.
    with torch.serialization.safe_globals(harmless), readable_logs():
        return read_torch(path)


READERS: dict[str, Callable[[Path], Any]] = {".pkl": read_pickle, ".safetensors": safetensors.torch.load_file}
