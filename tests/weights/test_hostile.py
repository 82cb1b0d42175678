"""Files of weights that ask for more than they hold, or for code: refused in a sentence, within the file's own size."""

import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.weights.file import read_weights

pytestmark = pytest.mark.timeout(60)


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)


DICT = b"\x80\x04}\x8c\x01w"
ARRAY = call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", b"(K\x00t", b"C\x01b")


def an_array(shape: bytes, kind: bytes, content: bytes) -> bytes:
    return (
        DICT + ARRAY + b"(K\x01" + shape + call("numpy", "dtype", kind, b"\x89", b"\x88") + b"\x89" + content + b"tbs."
    )


HOSTILE = {
    "a call": b"cos\nsystem\n(\x8c\x0ftouch /tmp/evil_tR.",
    "bytes of a terabyte": DICT + b"\x8e" + struct.pack("<Q", 2**40) + b"xs.",
    "a text of a terabyte": DICT + b"\x8d" + struct.pack("<Q", 2**40) + b"xs.",
    "a memo of 2^31": DICT + b"N" + b"r" + struct.pack("<I", 2**31 - 1) + b"s.",
    "an array of a terabyte": an_array(b"(" + number(2**40) + b"t", b"\x8c\x02f4", b"C\x04abcd"),
    "an array of less than nothing": an_array(b"(J\xff\xff\xff\xfft", b"\x8c\x02f4", b"C\x00"),
    "objects": an_array(b"(K\x01t", b"\x8c\x01O", b"C\x08abcdefgh"),
    "a type with fields": an_array(b"(K\x01t", b"\x8c\x05i4,f4", b"C\x08abcdefgh"),
    "a type that is none": an_array(b"(K\x01t", b"K\x05", b"C\x08abcdefgh"),
    "contents that are none": an_array(b"(K\x01t", b"\x8c\x02f4", b"N"),
    "a key of tuples": b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.",
    "a key of tuples of two": b"\x80\x04})" + b"N\x86" * 300_000 + b"Ns.",
    "a key of tuples remembered": b"\x80\x04})" + b"q\x000h\x00\x85" * 300_000 + b"Ns.",
    "an ordered one of tuples": call("collections", "OrderedDict", b"]", b"]") + b".",
    "a key in an ordered one": b"\x80\x04" + call("collections", "OrderedDict", b"(()K\x01tt") + b".",
    "bytes by another codec": DICT + call("_codecs", "encode", b"\x8c\x01x", b"\x8c\x03zip") + b"s.",
    "a tensor of words": DICT + call("torch._utils", "_rebuild_tensor_v2", b"N", b"N", b"N", b"N") + b"s.",
    "entries of a list": b"\x80\x04]K\x01K\x02s.",
    "a stack that is empty": b"\x80\x04tR.",
    "nothing": b"",
    "a word": b"weights",
}


@pytest.fixture(autouse=True)
def _little_memory() -> Any:
    """4 GB beyond what is in use: the rest is not there to be asked for."""
    earlier = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, earlier[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, earlier)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "safetensors"])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"w\.{suffix} "):
        read_weights(path)
    assert not Path("/tmp/evil_").exists()


def test_archives_that_inflate_are_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(2**20)}, whole)
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as written:
        for name in read.namelist():
            written.writestr(name, read.read(name))
    with pytest.raises(UserError, match="a compressed archive"):
        read_weights(tmp_path / "w.pth")


def test_views_that_repeat_their_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="larger than the file"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read_as_they_were(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "by columns": np.asfortranarray(rng.normal(size=(3, 4))),
        "other bytes": np.arange(5, dtype=">i4"),
        "nothing": np.zeros((0, 3), np.float16),
        "a truth": np.array([True, False]),
    }
    content = {"model": OrderedDict(arrays), "scale": np.float64(0.5), "__author__": "x"}
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_weights(path).tensors
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
