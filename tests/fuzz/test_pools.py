"""Pools and pictures of others: every row opened, or refused in a sentence."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data.paste.cutout import FaultyInstance, isolate, read_rgba
from harness.data.pool.index import open_pool, write_index
from harness.data.pool.sources import FileSource
from harness.errors import UserError
from tests.fuzz.hostile import changed, changed_bytes, fuzz, refused

pytestmark = pytest.mark.timeout(600)
POOL = {"0": ["a.png", "b.png|m.png"], "2": ["*c.png"]}
NAMED = {"by": "name", "instances": {"cat": ["a.png"]}}
COLUMNS = "category,path,clip_score,generator\n0,a.png,30.5,x\n0,b.png|m.png,20,y\n2,*c.png,,z\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def opened(path: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        pool = None
        with refused(path.stem, UserError):
            pool = open_pool(path, None, Path(cache))
        if pool is None:
            return
        for row in range(len(pool)):
            with contextlib.suppress(FaultyInstance):
                read_rgba(pool.source(row))  # type: ignore[arg-type]
        for name in pool.columns:
            assert len(pool.column(name)) == len(pool)
        pool.rows_of(0)


@fuzz(80, changed(POOL) | changed(NAMED))
def test_json(folder: Path, content: Any) -> None:
    (folder / "json.json").write_text(json.dumps(content))
    opened(folder / "json.json")


@fuzz(30, changed_bytes(json.dumps(POOL).encode()), changed_bytes(COLUMNS.encode()))
def test_bytes_and_columns(folder: Path, content: bytes, columns: bytes) -> None:
    for pool in (content, json.dumps(POOL).encode()):
        (folder / "pool.json").write_bytes(pool)
        (folder / "pool.columns.csv").write_bytes(columns)
        opened(folder / "pool.json")


def _tables() -> tuple[bytes, bytes]:
    table = pa.table(
        {
            "category_id": [0, 0, 2],
            "path": ["a.png", "b.png", "c.png"],
            "mask_path": [None, "m.png", None],
            "isolated": [False, False, True],
            "clip_score": [0.5, None, 0.1],
            "prompt": ["x", "y", "z"],
        }
    )
    with tempfile.TemporaryDirectory() as place:
        arrow, parquet = Path(place) / "x.arrow", Path(place) / "x.parquet"
        write_index(table.replace_schema_metadata({"root": place}), arrow)
        pq.write_table(table, parquet)
        return arrow.read_bytes(), parquet.read_bytes()


ARROW, PARQUET = _tables()


@fuzz(80, changed_bytes(ARROW))
def test_indices(folder: Path, content: bytes) -> None:
    (folder / "pool.arrow").write_bytes(content)
    opened(folder / "pool.arrow")


@fuzz(80, changed_bytes(PARQUET))
def test_parquet(folder: Path, content: bytes) -> None:
    (folder / "pool.parquet").write_bytes(content)
    opened(folder / "pool.parquet")


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (12, 9, 4), np.uint8)
    made = [cv2.imencode(suffix, picture[..., :depth])[1] for suffix, depth in ((".png", 4), (".png", 3), (".jpg", 3))]
    return [each.tobytes() for each in made]


@fuzz(80, changed_bytes(_pictures()[0]) | changed_bytes(_pictures()[1]) | changed_bytes(_pictures()[2]))
def test_pictures(folder: Path, content: bytes) -> None:
    (folder / "good.png").write_bytes(_pictures()[0])
    path = folder / "picture.png"
    path.write_bytes(content)
    for source in (FileSource(str(path)), FileSource(str(folder / "good.png"), str(path))):
        with contextlib.suppress(FaultyInstance):
            isolate(read_rgba(source), str(path))
