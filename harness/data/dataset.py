"""A configured dataset: where its files are, and what is made from them, each made on first use."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path

import numpy as np

from harness.config import DataConfig
from harness.data.facts import TrainingFacts
from harness.data.lvis.annotations import Annotations
from harness.data.lvis.cache import load_annotations, load_tenth
from harness.data.mini.make import make_mini
from harness.data.mini.stamp import is_as_made
from harness.data.mini.truth import CLEAN, kinds_of
from harness.data.pool.index import check_categories, check_up_to_date, columns_file, open_pool
from harness.data.pool.numbering import Numbering
from harness.data.pool.pool import InstancePool, empty_pool
from harness.data.seeding import generator
from harness.errors import UserError, nearest
from methods.contract import Method, Pool

TENTH = "lvis_tenth"  # of the data group: the training split is a fixed tenth of its file
_POOLS = (".zip", ".arrow", ".json")  # of one name, the first that is there


class Dataset:
    """What a `DataConfig` names. Every member raises UserError for a file that is missing or malformed."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    # ------------------------------------------------------------------------------------------------- its files

    @cached_property
    def root(self) -> Path:
        """The dataset's folder; `mini` is made there on first use."""
        folder = Path(self.config.root).expanduser()
        if self.config.name == "mini":
            _make_once(folder)
        if not folder.is_dir():
            raise UserError(
                f"data.root: the folder {folder} does not exist; `harness data check data={self.config.name}` "
                "says what it must contain"
            )
        return folder

    @property
    def image_root(self) -> Path:
        """The folder that the annotations' file names are relative to."""
        return self.root / self.config.images

    @property
    def cache(self) -> Path:
        """The folder of memory-mapped annotations and pool indices."""
        return Path(self.config.cache).expanduser() if self.config.cache else self.root / "cache"

    @property
    def train_file(self) -> Path:
        """The annotation file of the training split."""
        return self._annotation_file(self.config.train_annotations)

    @property
    def val_file(self) -> Path:
        """The annotation file of the validation split."""
        return self._annotation_file(self.config.val_annotations)

    def _annotation_file(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise UserError(
                f"{path} does not exist; `harness data check data={self.config.name}` says what to download"
            )
        return path

    @property
    def pool_file(self) -> Path | None:
        """A path, or the name of a pool below root/pools; None if none is configured.

        By name, a packed pool is taken before an index, and the index that `harness data index-pool` made before the
        JSON that it was made from.
        """
        if self.config.pool is None:
            return None
        given = Path(self.config.pool).expanduser()
        folder = self.root / "pools"
        for path in (given, *(folder / f"{self.config.pool}{suffix}" for suffix in _POOLS)):
            if path.is_file():
                check_up_to_date(path)
                return path
        valid = {path.stem for path in folder.glob("*") if path.suffix in _POOLS}
        raise UserError(
            f"data.pool={self.config.pool}: neither a file nor a pool in {folder}; {nearest(self.config.pool, valid)}"
        )

    @property
    def pool_columns_file(self) -> Path | None:
        """What a pool's JSON has beside it, and a run depends on: any but what the recipe of `mini` wrote itself."""
        pool = self.pool_file
        columns = columns_file(pool) if pool is not None and pool.suffix == ".json" else None
        if columns is None or (self.config.name == "mini" and is_as_made(self.root.absolute(), columns.absolute())):
            return None
        return columns

    # ----------------------------------------------------------------------------------------------- its contents

    @cached_property
    def train(self) -> Annotations:
        """The training split, for `lvis_tenth` a fixed tenth of it; memory-mapped."""
        load = load_tenth if self.config.name == TENTH else load_annotations
        return load(self.train_file, self.cache)

    @cached_property
    def val(self) -> Annotations:
        """The validation split; memory-mapped."""
        return load_annotations(self.val_file, self.cache)

    @cached_property
    def facts(self) -> TrainingFacts:
        """The training split's statistics, as methods read them."""
        return TrainingFacts(self.train, self.image_root)

    @property
    def num_classes(self) -> int:
        """Classes that a detector is trained on: the dataset's own, and DiverGen's extra ones where configured."""
        return self.config.num_classes or len(self.train.category_ids)

    @cached_property
    def pool(self) -> InstancePool:
        """The configured pool as it is."""
        path = self.pool_file
        if path is None:
            raise UserError("data.pool names no pool; give data.pool=PATH, or --pool")
        return open_pool(path, self.num_classes, self.cache, Numbering(self.train))

    def prepared_pool(self, method: Method, seed: int) -> InstancePool:
        """The configured pool as a method prepares it; an empty one for a method that does not paste.

        Raises UserError for a pool that is missing, malformed, of other categories, or empty after preparation.
        """
        if not method.pastes:
            return empty_pool()
        path = self.pool_file
        # A method may drop the categories that the dataset lacks, so they are checked in what it leaves.
        pool = empty_pool() if path is None else open_pool(path, None, self.cache, Numbering(self.train))
        try:
            prepared = method.prepare(pool, self.facts, generator(seed, "prepare"))
        except ValueError as error:
            raise UserError(f"{path or 'no pool'}: {error}") from error
        name = type(method).__name__
        if not isinstance(prepared, InstancePool):
            raise TypeError(f"{name}.prepare returned a {type(prepared).__name__}, not a pool made from its argument")
        if len(prepared) == 0:
            if path is None:
                raise UserError(f"method {name} pastes instances: give data.pool=PATH")
            raise UserError(f"{path}: method {name} leaves none of {len(pool)} instances to paste")
        if path is not None:
            check_categories(prepared, self.num_classes, path)
        return prepared

    def kinds(self, pool: Pool) -> np.ndarray | None:
        """(N,) text by pool row: what each instance really is, by the hidden truth of a pool of `mini`; else None.

        For judging decisions afterwards: methods never see it.
        """
        file = self.pool_file
        if self.config.name != "mini" or file is None:
            return None
        return kinds_of(pool, self.root / "truth" / f"{file.stem}.parquet")

    def clean_rows(self, pool: Pool) -> np.ndarray | None:
        """(N,) bool by pool row: whether `kinds` says clean; None if it says nothing."""
        kinds = self.kinds(pool)
        return None if kinds is None else kinds == CLEAN


@cache
def _make_once(folder: Path) -> None:
    """Makes `mini` once per process: checking that it is complete means counting thousands of files."""
    make_mini(folder)
