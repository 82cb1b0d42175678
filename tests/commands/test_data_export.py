"""`harness data export`: a pool as Parquet, and back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.commands.data_export import export_pool
from harness.commands.data_index_pool import index_pool
from harness.data.pool.index import open_pool
from harness.errors import UserError


def test_sources_are_the_same_there_and_back(write_pool: Callable[[str], Path], tmp_path: Path) -> None:
    path = write_pool('{"1": ["b.png|m.png"], "0": ["*a.png"]}')
    out = tmp_path / "elsewhere" / "pool.parquet"
    done = CliRunner().invoke(app, ["data", "export", str(path), str(out)])
    assert done.exit_code == 0
    assert "2 instances, columns category_id, path" in done.output
    before, after = (open_pool(p, 2, tmp_path / "cache") for p in (path, out))
    assert [before.source(i) for i in range(2)] == [after.source(i) for i in range(2)]


def test_columns_of_an_index_come_along(small, tmp_path: Path) -> None:
    index = index_pool(small.paths.pool("half_bad"), tmp_path / "half.arrow", workers=1).index
    export_pool(index, tmp_path / "half.parquet")
    before, after = (open_pool(p, 24, tmp_path / "cache") for p in (index, tmp_path / "half.parquet"))
    assert before.columns == after.columns
    assert before.column("sha1").tolist() == after.column("sha1").tolist()
    assert before.source(7) == after.source(7)


def test_file_and_images_can_be_moved_together(write_pool: Callable[[str], Path], tmp_path: Path) -> None:
    path = write_pool('{"0": ["a.png"]}')
    (tmp_path / "a.png").touch()
    export_pool(path, tmp_path / "pool.parquet")
    there = tmp_path / "another machine"
    there.mkdir()
    for name in ("a.png", "pool.parquet"):
        shutil.move(tmp_path / name, there / name)
    pool = open_pool(there / "pool.parquet", 1, tmp_path / "cache")
    assert pool.source(0).path == str(there / "a.png")


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("pool.json", "pool.csv", r"must end in \.parquet"),
        ("none.json", "pool.parquet", "no such pool"),
        ("pool.json", "pool.json/pool.parquet", "cannot be written"),
    ],
)
def test_what_is_wrong_is_an_error_in_one_line(
    source: str, out: str, message: str, write_pool: Callable[[str], Path], tmp_path: Path
) -> None:
    write_pool('{"0": ["a.png"]}')
    with pytest.raises(UserError, match=message):
        export_pool(tmp_path / source, tmp_path / out)
