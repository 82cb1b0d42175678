"""Pools of others: what is wrong with one is said before code in C reads it."""

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.commands.data_pools import pack_pool
from harness.data.paste.cutout import FaultyInstance, read_rgba
from harness.data.pool.index import open_pool, write_index
from harness.data.pool.pool import IndexStore
from harness.data.pool.sources import FileSource
from harness.errors import UserError

GOOD = {"category_id": [0, 1], "path": ["a.png", "b.png"]}


def a_table(**columns: Any) -> pa.Table:
    return pa.table({**GOOD, **columns})


WRONG = {
    "categories as text": (a_table(category_id=["0", "1"]), "category_id.*expected integers"),
    "categories as decimals": (a_table(category_id=pa.array([0, 1]).cast(pa.decimal128(25, 2))), "expected integers"),
    "categories as lists": (a_table(category_id=[[0], [1]]), "expected integers"),
    "categories with gaps": (a_table(category_id=pa.array([0, None], pa.int64())), "empty cells"),
    "a huge category": (a_table(category_id=[0, 2**60]), "expected 0 to"),
    "a negative category": (a_table(category_id=[-1, 0]), "category -1"),
    "paths as numbers": (a_table(path=[1, 2]), "path.*expected texts"),
    "paths with gaps": (a_table(path=["a", None]), "empty cells"),
    "masks as numbers": (a_table(mask_path=[1, 2]), "mask_path.*expected texts"),
    "truth as text": (a_table(isolated=["yes", "no"]), "isolated.*true or false"),
    "scores as lists": (a_table(clip_score=[[1.0], []]), "clip_score"),
    "a column twice": (pa.table([[0], ["a"], ["b"]], ["category_id", "path", "path"]), "twice"),
    "no path": (pa.table({"category_id": [0]}), "no column path"),
}


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
@pytest.mark.parametrize(("table", "why"), WRONG.values(), ids=WRONG)
def test_tables_of_other_types_are_named(table: pa.Table, why: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pool.{suffix}"
    if suffix == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif why == "twice":
        pytest.skip("Parquet's own writer refuses it")
    else:
        pq.write_table(table, path)
    with pytest.raises(UserError, match=rf"pool\.{suffix}.*{why}"):
        open_pool(path, None, tmp_path / "cache")


def _open(path: Path) -> None:
    try:
        store = IndexStore(path)
        for row in range(len(store.categories)):
            store.source(row)
        store.column("path")
    except UserError:
        os._exit(7)


def test_offsets_beyond_the_file_do_not_end_the_process(tmp_path: Path) -> None:
    """Each 4 bytes of an index in turn are replaced by a large number, in processes of their own."""
    path = tmp_path / "pool.arrow"
    write_index(a_table(prompt=["x", "y"]).replace_schema_metadata({"root": str(tmp_path)}), path)
    whole = path.read_bytes()
    context = multiprocessing.get_context("fork")
    codes = []
    for place in range(8, len(whole), 44):
        path.write_bytes(whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :])
        process = context.Process(target=_open, args=(path,))
        process.start()
        process.join(20)
        codes.append(process.exitcode)
    assert set(codes) <= {0, 7}
    assert 7 in codes


def test_several_batches_are_not_taken_for_the_first(tmp_path: Path) -> None:
    with pa.ipc.new_file(str(tmp_path / "pool.arrow"), a_table().schema) as writer:
        writer.write_table(a_table(), max_chunksize=1)
    with pytest.raises(UserError, match="2 batches"):
        open_pool(tmp_path / "pool.arrow", None, tmp_path)


def test_a_checked_index_is_handed_to_workers_as_it_is(tmp_path: Path) -> None:
    write_index(a_table().replace_schema_metadata({"root": str(tmp_path)}), tmp_path / "pool.arrow")
    store = pickle.loads(pickle.dumps(IndexStore(tmp_path / "pool.arrow")))
    assert store.categories.tolist() == [0, 1]


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"x": ["a"]}', '{"--5": ["a"]}', '{"0": "a"}', '{"0": [1]}', f'{{"{"9" * 5000}": ["a"]}}',
        '{"0": [""]}', '{"by": [], "instances": {}}', '{"0": ["\\ud800"]}', "[" * 100_000, '{"0": {"0": ["a"]}}',
    ],
)  # fmt: skip
def test_json_that_is_no_pool(content: str, write_pool: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pool\.json"):
        open_pool(write_pool(content), None, tmp_path / "cache")


def test_names_that_no_file_can_have_are_only_missing_files(write_pool: Callable[[str], Path], tmp_path: Path) -> None:
    names = ["x" * 300 + ".png", "a\x00b.png", "../" * 2000]
    pool = open_pool(write_pool(json.dumps({"0": names})), None, tmp_path / "cache")
    for row in range(len(names)):
        with pytest.raises(FaultyInstance):
            read_rgba(pool.source(row))  # type: ignore[arg-type]


@pytest.mark.timeout(20)
def test_images_that_are_none_or_absurdly_large_are_faulty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    cv2.imwrite(str(tmp_path / "good.png"), np.full((4, 4, 4), 255, np.uint8))
    good = (tmp_path / "good.png").read_bytes()
    sides = (30000).to_bytes(4, "big") * 2
    (tmp_path / "vast.png").write_bytes(good[:16] + sides + good[24:])
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "vast.png", "folder.png"):
        for source in (FileSource(str(tmp_path / name)), FileSource(str(tmp_path / "good.png"), str(tmp_path / name))):
            with pytest.raises(FaultyInstance):
                read_rgba(source)


@pytest.mark.timeout(20)
def test_packed_pictures_are_as_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), np.full((8, 8, 4), 255, np.uint8))
    good = (tmp_path / "good.png").read_bytes()
    (tmp_path / "vast.png").write_bytes(good[:16] + (30000).to_bytes(4, "big") * 2 + good[24:])
    (tmp_path / "pool.json").write_text(json.dumps({"0": ["good.png", "vast.png"]}))
    pack_pool(tmp_path / "pool.json", tmp_path / "pool.zip", None)
    whole, vast = (open_pool(tmp_path / "pool.zip", None, tmp_path).source(row) for row in (0, 1))
    assert isinstance(whole, FileSource)
    assert isinstance(vast, FileSource)
    assert read_rgba(whole).shape == (8, 8, 4)
    for faulty in (vast, *(replace(whole, span=span) for span in ((0, 2**62), (-5, 2**62), (2**62, 5), (0, -1)))):
        with pytest.raises(FaultyInstance):
            read_rgba(faulty)
    monkeypatch.setenv("BSGAL_BENCH_MOST_PIXELS", "63")
    for source in (whole, FileSource(str(tmp_path / "good.png"))):
        with pytest.raises(FaultyInstance):
            read_rgba(source)
    monkeypatch.setenv("BSGAL_BENCH_MOST_PIXELS", "64")
    assert read_rgba(whole).shape == (8, 8, 4)
    for wrong in ("many", "-1", "0", "1e9"):
        monkeypatch.setenv("BSGAL_BENCH_MOST_PIXELS", wrong)
        with pytest.raises(UserError, match=r"BSGAL_BENCH_MOST_PIXELS=.*: expected a number of pixels"):
            read_rgba(whole)
