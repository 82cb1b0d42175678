"""Weights and checkpoints of others, or damaged ones: read, refused, or passed over."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st

from harness.errors import UserError
from harness.training import checkpoint
from harness.training.distributed import Ranks
from harness.weights.file import read_weights
from tests.fuzz.hostile import changed_bytes, fuzz, refused

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.zeros(2, dtype=torch.float16)}


def _saved(content: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


PICKLES = [
    pickle.dumps({"model": {name: tensor.numpy() for name, tensor in TENSORS.items()}, "__author__": "x"}, protocol)
    for protocol in (2, 4, 5)
]
PICKLES.append(pickle.dumps({"model": TENSORS}))
FILES = {
    ".pkl": PICKLES,
    ".pth": [_saved({"model": TENSORS}), _saved({"model": TENSORS}, _use_new_zipfile_serialization=False)],
    ".safetensors": [safetensors.torch.save(TENSORS)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def _is_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with refused(path.name, UserError):
        for tensor in read_weights(path).tensors.values():
            assert isinstance(tensor, torch.Tensor)
            np.asarray(tensor.float()).sum()


@fuzz(100, st.sampled_from(PICKLES).flatmap(changed_bytes))
def test_pickles(folder: Path, content: bytes) -> None:
    _is_read_or_refused(folder / "w.pkl", content)


@fuzz(60, st.sampled_from(FILES[".pth"]).flatmap(changed_bytes))
def test_torch_files(folder: Path, content: bytes) -> None:
    _is_read_or_refused(folder / "w.pth", content)


@fuzz(80, changed_bytes(FILES[".safetensors"][0]))
def test_safetensors(folder: Path, content: bytes) -> None:
    _is_read_or_refused(folder / "w.safetensors", content)


@fuzz(30, changed_bytes(_saved({"iteration": 9, "model": TENSORS})), changed_bytes(_saved({"own": 1})))
def test_checkpoints(folder: Path, shared: bytes, own: bytes) -> None:
    good = {"shared.pt": _saved({"iteration": 5}), "rank0.pt": _saved({"own": 0})}
    for name, files in {"000000005": good, "000000009": {"shared.pt": shared, "rank0.pt": own}}.items():
        (folder / name).mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / name / file).write_bytes(content)
    found: list[int] = []
    assert checkpoint.restore_newest(
        folder, Ranks(), torch.device("cpu"), lambda shared, own: found.append(int(shared["iteration"]))
    )
    assert len(found) == 1
