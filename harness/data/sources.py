"""Where a dataset's files lie; the embedded dataset is made here on first use."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from harness.config import DataConfig
from harness.data.embedded import make_mini
from harness.errors import UserError, nearest


def root(data: DataConfig) -> Path:
    """The dataset's folder. Raises UserError when it does not exist."""
    folder = Path(data.root).expanduser()
    if data.name == "mini":
        _embedded(folder)
    if not folder.is_dir():
        raise UserError(f"data.root: the folder {folder} does not exist; `harness data check` says what belongs there")
    return folder


@cache
def _embedded(folder: Path) -> None:
    """Once a process: whether it is whole is told by counting thousands of files."""
    make_mini(folder)


def train_annotations(data: DataConfig) -> Path:
    return _annotations(data, data.train_annotations)


def val_annotations(data: DataConfig) -> Path:
    return _annotations(data, data.val_annotations)


def _annotations(data: DataConfig, name: str) -> Path:
    path = root(data) / name
    if not path.is_file():
        raise UserError(f"{path} does not exist; `harness data check data={data.name}` says what to download where")
    return path


def pool(data: DataConfig) -> Path | None:
    """The pool's file: a path, or the name of a pool below root/pools; None where none is configured.

    By name, the index that `harness data index-pool` made is taken before the JSON that it was made from.
    """
    if data.pool is None:
        return None
    given = Path(data.pool).expanduser()
    folder = root(data) / "pools"
    for path in (given, folder / f"{data.pool}.arrow", folder / f"{data.pool}.json"):
        if path.is_file():
            return path
    valid = {path.stem for path in folder.glob("*") if path.suffix in (".arrow", ".json")}
    raise UserError(f"data.pool={data.pool}: neither a file nor a pool in {folder}; {nearest(data.pool, valid)}")


def pool_truth(data: DataConfig) -> Path | None:
    """The hidden truth of a pool of the embedded dataset, for judging decisions afterwards; methods never see it."""
    file = pool(data)
    if data.name != "mini" or file is None:
        return None
    truth = root(data) / "truth" / f"{file.stem}.parquet"
    return truth if truth.is_file() else None
