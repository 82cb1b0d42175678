"""Pickles of weights, as detectron2 and the ResNet conversions write them, read without trusting anything in them.

Nothing that a pickle names is called: arrays, tensors and ordered dictionaries are rebuilt here, from what they say
about themselves, within the size of the file. Memory beyond it is not asked for, whatever the file claims.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from harness.weights.nesting import check_nesting

_NUMPY_PARTS = ("numpy.core.multiarray", "numpy._core.multiarray")  # they moved with NumPy 2
_PLAIN = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248])")


def read_pickle(path: Path) -> Any:
    """What a pickle holds: plain containers, numbers, texts, arrays and tensors. Raises pickle.UnpicklingError."""
    return _Checked(io.BytesIO(path.read_bytes()), encoding="latin1").load()


def read_torch(file: io.BytesIO | Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU. Raises pickle.UnpicklingError for more, and for a zip bomb."""
    check_torch(file)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def check_torch(file: io.BytesIO | Path) -> None:
    """Raises pickle.UnpicklingError for what torch would take endless memory or time to read."""
    if isinstance(file, Path):
        size = file.stat().st_size
        is_zip = zipfile.is_zipfile(file)
    else:
        size = file.getbuffer().nbytes
        is_zip = zipfile.is_zipfile(file)
        file.seek(0)
    if is_zip:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > size:
            raise pickle.UnpicklingError(
                "a compressed archive, which torch.save never writes; unpack it and save it again"
            )
    check_nesting(file)


class _DType:
    """A NumPy type by its name; plain numbers alone."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds an array of type {str(name)[:40]!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array from when it is named until its state follows."""

    value: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array without its contents")
        _, shape, kind, by_columns, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(kind, _DType) or not isinstance(content, bytes) or not _is_shape(shape):
            raise pickle.UnpicklingError("an array of something else than numbers")
        if prod(shape) * kind.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(content)} bytes")
        value = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if by_columns else "C")
        self.value = value.astype(kind.dtype.newbyteorder("="), copy=False)


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    """An array as pickles of protocol 5 have it."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", bytes(content) if isinstance(content, bytearray) else content))
    return array


class _Ordered(OrderedDict[Any, Any]):
    """An ordered dictionary; what modules keep beside it is left out."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        for pair in pairs:
            key, value = pair
            self[_key(key)] = value

    def __setstate__(self, state: Any) -> None:
        pass


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 32
        and all(isinstance(side, int) and 0 <= side < 2**48 for side in shape)
    )


def _key(key: Any) -> Any:
    """A dictionary's key: hashing nested ones may not end."""
    if not isinstance(key, str | int | float | bytes | None):
        raise pickle.UnpicklingError(f"a dictionary's key of type {type(key).__name__}")
    return key


def _scalar(kind: Any, content: Any = b"") -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(kind, _DType) or not isinstance(content, bytes) or len(content) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("a number without its contents")
    return np.frombuffer(content, kind.dtype)[0]


def _encoded(text: Any, encoding: Any = "") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in an encoding that no array has")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols below 3 write the contents of an empty array."""
    return b""


def _storage(content: Any) -> Any:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a tensor without its contents")
    return read_torch(io.BytesIO(content))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage) or not (_is_shape(size) and _is_shape(stride)):
        raise pickle.UnpicklingError("a tensor of something else than numbers")
    made: torch.Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    return made


def _number(name: str) -> Callable[[], _DType]:
    """The replacement of one of `numpy.dtypes`' classes."""
    return lambda: _DType(getattr(np.dtypes, name)().str)


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _Ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{(part, "_reconstruct"): _Array for part in _NUMPY_PARTS},
    **{(part, "scalar"): _scalar for part in _NUMPY_PARTS},
    **{(part.replace("multiarray", "numeric"), "_frombuffer"): _from_buffer for part in _NUMPY_PARTS},
    **{("numpy.dtypes", name): _number(name) for name in dir(np.dtypes) if name.endswith("DType")},
}


class _Checked(pickle._Unpickler):
    """Python's own unpickler, not the one in C: its memo is a dictionary, which no index makes large."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    if TYPE_CHECKING:  # what the types that Python comes with leave out
        stack: list[Any]
        append: Callable[[Any], None]

        def pop_mark(self) -> list[Any]: ...

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:200])
        return _ALLOWED[module, name]

    def load(self) -> Any:
        return _unwrapped(super().load())

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._mapping()[_key(key)] = value

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        mapping = self._mapping()
        for place in range(0, len(items) - 1, 2):
            mapping[_key(items[place])] = items[place + 1]

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_key(items[place]): items[place + 1] for place in range(0, len(items) - 1, 2)})

    def _mapping(self) -> dict[Any, Any]:
        mapping = self.stack[-1]
        if not isinstance(mapping, dict):
            raise pickle.UnpicklingError("entries of something other than a dictionary")
        return mapping

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("sets, and objects of other kinds, are no weights")

    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.DICT[0]] = _load_dict
    for code in (pickle.ADDITEMS, pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ):
        dispatch[code[0]] = _refuse


def _unwrapped(content: Any) -> Any:
    """Arrays in place of what stood for them, two containers deep, where weights lie."""
    if not isinstance(content, dict):
        return _array(content)
    return {
        key: {inner: _array(each) for inner, each in value.items()} if isinstance(value, dict) else _array(value)
        for key, value in content.items()
    }


def _array(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
