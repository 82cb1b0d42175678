"""Pools: the published format, the index, subsets, joining, and what is wrong with bad ones."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.pool.index import open_pool
from harness.data.pool.pool import InstancePool, ListStore, empty_pool, joined, training_pool
from harness.data.pool.sources import FileSource
from harness.errors import UserError

Writer = Callable[[str], Path]


def test_the_published_format_is_read_as_it_is(write_pool: Writer, tmp_path: Path) -> None:
    entries = {"7": ["b.png", "x/c.png|masks/c.png"], "2": ["*cut.png", "/abs/d.png"], "5": []}
    pool = open_pool(write_pool(json.dumps(entries)), 10, tmp_path / "cache")
    assert pool.categories.tolist() == [2, 2, 7, 7]
    assert pool.present_categories.tolist() == [2, 7]
    assert [pool.rows_of(c).tolist() for c in (2, 5, 7, 99)] == [[0, 1], [], [2, 3], []]
    assert pool.source(0) == FileSource(f"{tmp_path}/cut.png", None, True)
    assert pool.source(1) == FileSource("/abs/d.png", None, False)
    assert pool.source(3) == FileSource(f"{tmp_path}/x/c.png", f"{tmp_path}/masks/c.png", False)


def test_paths_from_a_folder_above_are_found(tmp_path: Path) -> None:
    """Published files name images from the folder that training was started in."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "pool.json").write_text('{"0": ["images/a.png"]}')
    pool = open_pool(tmp_path / "lists" / "pool.json", 1, tmp_path / "cache")
    assert pool.source(0).path == f"{tmp_path}/images/a.png"


def test_the_cached_index_follows_the_files_contents(write_pool: Writer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    open_pool(write_pool('{"0": ["a.png"]}'), 1, cache)
    index = next(cache.iterdir())
    written = index.stat().st_mtime_ns
    open_pool(write_pool('{"0": ["a.png"]}'), 1, cache)
    assert index.stat().st_mtime_ns == written
    assert len(open_pool(write_pool('{"0": ["a.png", "b.png"]}'), 1, cache)) == 2


def test_columns_beside_the_json(write_pool: Writer, tmp_path: Path) -> None:
    path = write_pool('{"1": ["b.png", "a.png"], "0": ["a.png"]}')
    (tmp_path / "pool.columns.csv").write_text(
        "category,path,clip_score,generator\n0,a.png,30.5,x\n1,a.png,20.0,y\n1,b.png,,z\n"
    )
    pool = open_pool(path, 2, tmp_path / "cache")
    np.testing.assert_equal(pool.column("clip_score"), [30.5, np.nan, 20.0])
    assert pool.column("generator").tolist() == ["x", "z", "y"]
    with pytest.raises(KeyError):
        pool.column("prompt_id")
    with pytest.raises(ValueError, match="read-only"):
        pool.column("clip_score")[0] = 1
    (tmp_path / "pool.columns.csv").write_text("category,path,clip_score\n0,a.png,30.5\n")
    with pytest.raises(UserError, match=r"category 1, path b\.png"):
        open_pool(path, 2, tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"cat": ["a.png"]}', "category 'cat' is not an integer"),
        ('{"1.5": ["a.png"]}', "category '1.5' is not an integer"),
        ('{"-1": ["a.png"]}', "category -1; expected 0 to"),
        ('{"0": ["a.png"], "3": ["b.png"]}', "category 3 is outside the 3 categories.*num_classes=4"),
        ('{"0": "a.png"}', "category 0 holds something other than a list"),
        ('{"0": [1]}', "category 0 holds something other than a list"),
        ('["a.png"]', "not an object"),
        ('{"0": ["a.png"', "invalid JSON at line 1"),
    ],
)
def test_bad_pools(content: str, message: str, write_pool: Writer, tmp_path: Path) -> None:
    path = write_pool(content)
    with pytest.raises(UserError, match=message) as error:
        open_pool(path, 3, tmp_path / "cache")
    assert str(path) in str(error.value)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such pool"):
        open_pool(tmp_path / "none.json", 3, tmp_path)
    (tmp_path / "broken.arrow").write_bytes(b"ARROW1 and no more")
    with pytest.raises(UserError, match="not a readable pool index"):
        open_pool(tmp_path / "broken.arrow", 3, tmp_path)
    (tmp_path / "pool.txt").touch()
    with pytest.raises(UserError, match=r"expected a \.json"):
        open_pool(tmp_path / "pool.txt", 3, tmp_path)


def test_an_empty_json_is_an_empty_pool(write_pool: Writer, tmp_path: Path) -> None:
    pool = open_pool(write_pool("{}"), 3, tmp_path / "cache")
    assert len(pool) == 0
    assert len(pool.present_categories) == 0
    assert len(pool.rows_of(0)) == 0


def made(categories: list[int]) -> InstancePool:
    sources = [FileSource(f"{row}.png") for row in range(len(categories))]
    return InstancePool(ListStore(sources, np.array(categories, np.int64)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=30), st.data())
def test_subsets_of_subsets(categories: list[int], data: st.DataObject) -> None:
    pool = made(categories)
    expected = np.arange(len(categories))
    for _ in range(2):
        choice = st.lists(st.integers(0, len(pool) - 1), max_size=20) if len(pool) else st.just([])
        rows = np.array(data.draw(choice), np.int64)
        pool, expected = pool.subset(rows), expected[rows]
        pool = pickle.loads(pickle.dumps(pool))
    assert [pool.source(row).path for row in range(len(pool))] == [f"{row}.png" for row in expected]
    assert pool.categories.tolist() == [categories[row] for row in expected]
    for category in range(8):
        assert pool.rows_of(category).tolist() == [i for i, row in enumerate(expected) if categories[row] == category]
    assert pool.present_categories.tolist() == sorted({categories[row] for row in expected})


def test_a_mask_is_no_subset() -> None:
    with pytest.raises(TypeError, match="flatnonzero"):
        made([0, 1]).subset(np.array([True, False]))


def test_an_opened_pool_pickles_as_its_path(write_pool: Writer, tmp_path: Path) -> None:
    names = [f"{i:040d}.png" for i in range(20_000)]
    pool = open_pool(write_pool(json.dumps({"0": names})), 1, tmp_path / "cache")
    assert pool.source(19_999).path.endswith(names[-1])
    assert len(pickle.dumps(pool)) < 1000
    assert pickle.loads(pickle.dumps(pool)).source(17) == pool.source(17)


def test_joined_pools_fill_columns_up(small, write_pool: Writer, tmp_path: Path) -> None:
    train = small.facts.instance_pool()
    path = write_pool('{"3": ["a.png"]}')
    (tmp_path / "pool.columns.csv").write_text("category,path,generator,clip_score\n3,a.png,sd,25\n")
    both = small.facts.join(train, open_pool(path, 24, tmp_path / "cache"))
    assert len(both) == len(train) + 1
    assert both.column("image")[-1] == -1
    assert both.column("generator")[[0, -1]].tolist() == ["", "sd"]
    assert both.rows_of(3)[-1] == len(train)
    assert both.source(len(train)).path == f"{tmp_path}/a.png"
    assert both.source(5) == train.source(5)
    with pytest.raises(KeyError):
        both.column("nothing")
    assert len(joined(empty_pool(), train)) == len(train)


def test_the_training_sets_own_instances(small) -> None:
    pool = training_pool(small.annotations, small.paths.folder / "coco")
    row = len(pool) // 2
    source = pool.source(row)
    assert source.image == pool.column("image")[row] == small.annotations.annotation_images[source.annotation]
    assert pool.categories[row] == small.annotations.annotation_categories[source.annotation]
    assert small.annotations.annotations_of(source.image).start <= source.annotation


def test_instances_are_opened_with_their_mask(small, tmp_path: Path) -> None:
    pool = open_pool(small.paths.folder / "pools" / "clean.json", 24, tmp_path / "cache")
    rgba = pool.subset(np.array([5])).open(0)
    assert rgba.dtype == np.uint8
    assert rgba.shape[2] == 4
    assert 0 < (rgba[..., 3] > 128).mean() < 1
    own = small.facts.instance_pool()
    both = pickle.loads(pickle.dumps(small.facts.join(pool, own)))
    assert np.array_equal(both.open(5), rgba)
    row = int(np.argmax(own.column("area_fraction")))
    whole = own.source(row).image
    size = small.annotations.heights[whole] * small.annotations.widths[whole]
    cut = both.open(len(pool) + row)
    assert (cut[..., 3] > 0).sum() == pytest.approx(own.column("area_fraction")[row] * size, rel=0.05)
    Path(pool.source(0).path).rename(tmp_path / "away.png")
    with pytest.raises(ValueError, match=r"missing file: .*\.png"):
        pool.open(0)
    (tmp_path / "away.png").rename(pool.source(0).path)
