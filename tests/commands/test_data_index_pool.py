"""Indexing: every fault found and listed, duplicates marked, killed runs gone on with; statistics of a pool."""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import harness.commands.data_index_pool as indexing
from harness.commands.data_index_pool import index_pool
from harness.commands.data_pool_stats import pool_stats
from harness.config import DataConfig
from harness.data.dataset import Dataset
from harness.data.paste.cutout import Fault, isolate, read_rgba
from harness.data.pool.index import open_pool
from harness.errors import UserError


@pytest.fixture
def pool_file(small, tmp_path: Path) -> Path:
    """A copy of a small pool with one image of every fault, and one image twice."""
    shutil.copytree(small.paths.folder / "pools", tmp_path / "pools")
    folder = tmp_path / "pools"
    entries: dict[str, list[str]] = {"0": [], "3": []}
    good = np.full((20, 20, 4), 255, np.uint8)
    good[:5, :, 3] = 0
    for name, image in {
        "rgb.png": good[..., :3],
        "clear.png": good * np.array([1, 1, 1, 0], np.uint8),
        "tiny.png": good[:1, :1],
        "mask4.png": good[:4, :4, 3],
        "mask.png": good[..., 3],
        "good.png": good,
    }.items():
        cv2.imwrite(str(folder / name), image)
    (folder / "text.png").write_text("none")
    shutil.copy(folder / "good.png", folder / "same.png")
    entries["3"] = ["good.png", "same.png", "rgb.png|mask.png", "*good.png"]
    entries["0"] = ["rgb.png", "clear.png", "tiny.png", "rgb.png|mask4.png", "rgb.png|none.png", "rgb.png|text.png"]
    entries["0"] += ["text.png", "none.png"]
    path = folder / "bad.json"
    path.write_text(json.dumps(entries))
    return path


def test_faults_are_counted_listed_and_left_out(pool_file: Path) -> None:
    summary = index_pool(pool_file, workers=2)
    assert summary.images == 12
    assert summary.good == 4
    assert summary.faults == {fault.value: 1 for fault in Fault}
    with summary.fault_list.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows if row["fault"] == "missing file"] == ["none.png"]
    assert len(rows) == 8
    pool = open_pool(summary.index, 4, pool_file.parent)
    assert pool.categories.tolist() == [3, 3, 3, 3]
    assert pool.column("duplicate").tolist() == [False, True, False, True]
    assert summary.duplicates == 2
    assert pool.column("width").tolist() == [20] * 4
    np.testing.assert_allclose(pool.column("area_fraction"), [0.75, 0.75, 0.75, np.nan])
    assert "8 left out" not in str(summary)
    assert "1 left out: missing file" in str(summary)
    assert not list(pool_file.parent.glob(".*partial*"))


def test_a_good_pool_keeps_its_columns(small, tmp_path: Path) -> None:
    source = small.paths.pool("half_bad")
    summary = index_pool(source, tmp_path / "out" / "half.arrow", workers=1)
    assert (summary.good, summary.faults) == (summary.images, {})
    plain, indexed = open_pool(source, 24, tmp_path / "cache"), open_pool(summary.index, 24, tmp_path)
    assert indexed.column("clip_score").tolist() == plain.column("clip_score").tolist()
    for row in range(0, len(plain), 29):
        assert indexed.source(row) == plain.source(row)
        path = plain.source(row).path
        assert indexed.column("area_fraction")[row] == pytest.approx(isolate(read_rgba(plain.source(row)), path)[1])
    again = index_pool(summary.index, tmp_path / "again.arrow", workers=1)
    assert again.good == summary.good


def test_a_killed_run_is_gone_on_with(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = small.paths.pool("clean"), tmp_path / "clean.arrow"
    monkeypatch.setattr(indexing, "CHUNK", 16)
    measure, calls = indexing._measure_one, 0

    def dies_at_40(source: object) -> dict[str, object]:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return measure(source)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "_measure_one", dies_at_40)
    with pytest.raises(KeyboardInterrupt):
        index_pool(source, out, workers=1)
    assert not out.exists()
    before, calls = calls, 1000
    summary = index_pool(source, out, workers=1)
    assert summary.good == 144
    assert calls - 1000 == 144 - 32  # two chunks of sixteen were saved
    assert before < 60


def test_nothing_good_and_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"0": ["no.png"]}')
    with pytest.raises(UserError, match="none of its 1 images"):
        index_pool(tmp_path / "none.json", workers=1)
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(UserError, match="is empty"):
        index_pool(tmp_path / "empty.json", workers=1)


def test_statistics_say_what_is_there(small, tmp_path: Path) -> None:
    pool = open_pool(small.paths.pool("extra"), 28, tmp_path / "cache")
    without = pool.subset(np.flatnonzero(pool.categories != 4))
    for suffix in ("png", "svg"):
        text = pool_stats(without, small.facts, small.annotations.category_names, tmp_path / f"stats.{suffix}")
        assert (tmp_path / f"stats.{suffix}").stat().st_size > 10_000
    assert f"{len(without)} instances of 27 categories" in text
    assert f"categories without instances: {small.annotations.category_names[4]}" in text
    extra = next(line for line in text.splitlines() if line.startswith("extra"))
    assert extra.split() == ["extra", "4", "0", "24", "6", "6", "6"]
    share = np.mean(without.column("generator") == "soft")
    assert f"({share:.0%})" in next(line for line in text.splitlines() if line.startswith("generator"))
    empty = pool.subset(np.zeros(0, np.int64))
    assert "0 instances" in pool_stats(empty, small.facts, small.annotations.category_names)


@pytest.mark.parametrize("changed", ["json", "columns.csv"])
def test_an_index_of_another_version_of_the_pool_is_not_used(changed: str, small, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(small.paths.folder / "pools", root / "pools")
    source = root / "pools" / "half_bad.json"
    index_pool(source, workers=1)
    dataset = Dataset(DataConfig("own", str(root), pool="half_bad"))
    assert dataset.pool_file == source.with_suffix(".arrow")
    for file in source.parent.glob("half_bad.*"):
        os.utime(file, (1, 1))  # as copying a folder does; the contents tell
    assert dataset.pool_file == source.with_suffix(".arrow")
    text = source.with_suffix(f".{changed}").read_text()
    source.with_suffix(f".{changed}").write_text(text.replace("0001.png", "0002.png"))
    with pytest.raises(UserError, match=r"half_bad.arrow was made from another version .*index-pool"):
        _ = dataset.pool_file
