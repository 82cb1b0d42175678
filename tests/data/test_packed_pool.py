"""A pool in one file gives what its folder gives."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from harness.commands.data_pools import merge_pools, pack_pool
from harness.config import RunConfig
from harness.data.dataset import Dataset
from harness.data.paste.cutout import FaultyInstance, read_rgba
from harness.data.pool.index import open_pool
from harness.data.pool.packed import packed_fingerprint, packed_index
from harness.data.pool.pool import InstancePool
from harness.data.sample import Sample
from harness.data.training import TrainingData, training_loader
from harness.errors import UserError
from methods.xpaste import XPaste
from tests.conftest import SmallMini


def samples(config: RunConfig) -> list[Sample]:
    dataset = Dataset(config.data)
    data = TrainingData(dataset, 0, config.method, dataset.prepared_pool(config.method, 0))
    return [sample for batch in training_loader(data, config.schedule) for sample in batch.samples]


def test_equal_pastes_to_the_bit_with_workers_and_wherever_it_lies(small: SmallMini, tmp_path: Path) -> None:
    method = XPaste(filtered=False)
    config = small.config(method, workers=2, iterations=4)
    plain = samples(config)
    source = Dataset(config.data).pool_file
    assert source is not None
    assert " instances in " in pack_pool(source, tmp_path / "half_bad.zip", None)
    moved = tmp_path / "elsewhere" / "half_bad.zip"
    moved.parent.mkdir()
    (tmp_path / "half_bad.zip").rename(moved)
    packed = samples(replace(config, data=replace(config.data, pool=str(moved))))
    assert sum(sample.augmented is not None for sample in plain) > 8
    for one, other in zip(plain, packed, strict=True):
        assert (one.augmented is None) == (other.augmented is None)
        assert one.skipped == other.skipped
        if one.augmented is not None and other.augmented is not None:
            assert torch.equal(one.augmented.image, other.augmented.image)
            assert torch.equal(one.augmented.targets.pool_row, other.augmented.targets.pool_row)


def pictures(folder: Path) -> Path:
    """RGBA, RGB with a mask, a mask that is missing, a picture that is missing, and a text."""
    rng = np.random.default_rng(0)
    for name, channels in (("rgba", 4), ("rgb", 3), ("mask", 1)):
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 256, (20, 30, channels), np.uint8))
    cv2.imwrite(str(folder / "photo.jpg"), rng.integers(0, 256, (20, 30, 3), np.uint8))
    (folder / "text.png").write_text("no picture")
    entries = "rgba.png", "rgb.png|mask.png", "photo.jpg|mask.png", "rgb.png|none.png", "none.png", "text.png"
    pool = folder / "pool.json"
    pool.write_text(json.dumps({"0": entries}))
    return pool


def read(pool: InstancePool, row: int) -> np.ndarray | str:
    try:
        return read_rgba(pool.source(row))
    except FaultyInstance as fault:
        return fault.fault.value


def test_every_kind_of_picture_and_fault_is_read_as_from_the_folder(tmp_path: Path) -> None:
    source, file = pictures(tmp_path), tmp_path / "pool.zip"
    assert "6 instances" in (said := pack_pool(source, file, None))
    assert said.endswith("1 files do not exist")
    folder, packed = (open_pool(path, 1, tmp_path / "cache") for path in (source, file))
    assert len(packed) == 6
    again = pickle.loads(pickle.dumps(packed))
    for row in range(6):
        np.testing.assert_array_equal(read(folder, row), read(packed, row))
        np.testing.assert_array_equal(read(packed, row), read(again, row))
    assert [isinstance(read(packed, row), str) for row in range(6)] == [False, False, False, True, True, True]


def test_it_is_a_zip_file_whose_name_by_content_is_its_pictures(tmp_path: Path) -> None:
    source, file = pictures(tmp_path), tmp_path / "pool.zip"
    pack_pool(source, file, None)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("rgba.png") == (tmp_path / "rgba.png").read_bytes()
        assert archive.namelist()[-1] == "pool.arrow"
    assert packed_index(file).address % 64 == 0
    first = packed_fingerprint(file)
    pack_pool(source, tmp_path / "again.zip", None)
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()
    cv2.imwrite(str(tmp_path / "rgba.png"), np.zeros((20, 30, 4), np.uint8))
    pack_pool(source, file, None)
    assert packed_fingerprint(file) != first


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    source, file = pictures(tmp_path), tmp_path / "pool.zip"
    pack_pool(source, file, None)
    with pytest.raises(UserError, match=r"pool\.zip is packed for training; give the pool that it was made from"):
        merge_pools([file], tmp_path / "out.json", None)
    with pytest.raises(UserError, match=r"out\.tar: the name must end in \.zip"):
        pack_pool(source, tmp_path / "out.tar", None)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"pool\.zip: not a pool packed by `harness data pack-pool`, or truncated"):
        open_pool(file, 1, tmp_path / "cache")
