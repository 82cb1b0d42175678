"""`harness data check`: what is there, what is missing and where to get it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands import data_check as check
from harness.commands.data_check import check_dataset
from harness.config import DataConfig
from tests.command_line import harness


@pytest.fixture
def copied(mini_root: Path, tmp_path: Path) -> DataConfig:
    """The embedded dataset's annotations, with links to its images, under another name."""
    for split in ("train", "val"):
        (tmp_path / "lvis").mkdir(exist_ok=True)
        shutil.copy(mini_root / "lvis" / f"lvis_v1_{split}.json", tmp_path / "lvis")
    for folder in ("coco", "pools"):
        (tmp_path / folder).symlink_to(mini_root / folder)
    return DataConfig(name="copied", root=str(tmp_path), pool="clean")


def test_a_whole_dataset(copied: DataConfig) -> None:
    findings = check_dataset(copied)
    assert findings.complete, str(findings)
    text = str(findings)
    assert "lvis_v1_train.json: 400 images" in text
    assert "24 categories" in text
    assert "all of the train split's 400 images" in text
    assert "clean.json" in text
    assert text.splitlines()[-1] == "complete"


def test_nothing_there_says_what_to_download(tmp_path: Path) -> None:
    findings = check_dataset(DataConfig(name="lvis_v1", root=str(tmp_path / "none")))
    assert not findings.complete
    for words in ("lvis_v1_train.json.zip", "lvis_v1_val.json.zip", "train2017.zip", "val2017.zip"):
        assert words in str(findings)


def test_counts_are_compared_with_lvis_v1(copied: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = check_dataset(replace(copied, name="lvis_v1"))
    assert not findings.complete
    assert "LVIS v1 has 100,170 images, 1,270,141 annotations, 1,203 categories" in str(findings)
    assert "LVIS v1 has 19,809 images, 244,707 annotations, 1,203 categories" in str(findings)
    counts = {}
    for split in ("train", "val"):
        content = json.loads((Path(copied.root) / "lvis" / f"lvis_v1_{split}.json").read_text())
        counts[split] = tuple(len(content[key]) for key in ("images", "annotations", "categories"))
    monkeypatch.setattr(check, "LVIS_V1", counts)
    assert check_dataset(replace(copied, name="lvis_v1")).complete


def test_missing_and_damaged_images(copied: DataConfig, mini_root: Path) -> None:
    images = Path(copied.root) / "coco"
    images.unlink()
    (images / "train2017").mkdir(parents=True)
    files = sorted((mini_root / "coco" / "train2017").iterdir())
    for file in files[1:]:
        (images / "train2017" / file.name).symlink_to(file)
    findings = check_dataset(copied)
    assert not findings.complete
    assert f"1 of the train split's 400 images, {files[0].name} for one" in str(findings)
    assert "120 of the val split's 120 images" in str(findings)
    (images / "train2017" / files[0].name).write_bytes(b"no image")
    assert f"{files[0].name} is damaged" in str(check_dataset(copied))


def test_a_cut_off_annotation_file_and_an_unknown_pool(copied: DataConfig) -> None:
    path = Path(copied.root) / "lvis" / "lvis_v1_val.json"
    path.write_bytes(path.read_bytes()[:1000])
    findings = check_dataset(replace(copied, pool="cleen"))
    assert not findings.complete
    assert "invalid JSON" in str(findings)
    assert "did you mean 'clean'?" in str(findings)


def test_checking_the_dataset_is_a_command(mini_root: Path, tmp_path: Path) -> None:
    ended = harness("data", "check", "data=mini", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "\ncomplete\n" in ended.out
    ended = harness("data", "check", "data=lvis_v1", "data.root=nowhere", cwd=tmp_path)
    assert ended.code == 1
    assert "train2017.zip" in ended.out
