"""Pools made of pictures, of other pools, of parts of one, by any name of a category, and scored."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from harness.cli import app
from harness.commands.data_pools import make_pool, merge_pools, subset_pool
from harness.commands.data_score_pool import score_pool
from harness.data.pool.index import open_pool
from harness.data.pool.numbering import Numbering
from harness.data.pool.pool import InstancePool
from harness.errors import UserError


@pytest.fixture
def names(small) -> list[str]:
    return small.annotations.category_names.tolist()


@pytest.fixture
def generated(names: list[str], tmp_path: Path) -> Path:
    """Pictures of two categories, two masks each, with what X-Paste and DiverGen leave beside them."""
    for category in names[:2]:
        for number in range(3):
            picture = np.full((16, 16, 3), 40 * number, np.uint8)
            mask = np.zeros((16, 16), np.uint8)
            mask[4:12, 4 : 8 + number] = 255
            for folder, image in (("images", picture), ("segs/u2net", mask), ("segs/clipseg", mask)):
                path = tmp_path / folder / category / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image)
    for method, add in (("u2net", 0), ("clipseg", 1)):
        results = [
            {"id": number + 1, "name": name, "clip_scores": [20 + add, 21 + add, -1], "areas": [0.1, 0.2, 0]}
            for number, name in enumerate(names[:2])
        ]
        (tmp_path / "segs" / method / "results.json").write_text(json.dumps(results))
    lines = [f"{name},0001.png,0.7" for name in names[:2]]
    (tmp_path / "filename_thres_0.6.csv").write_text("\n".join(["category,filename,similarity", *lines]))
    return tmp_path


def opened(path: Path, small, tmp_path: Path) -> InstancePool:
    return open_pool(path, 24, tmp_path / "cache", Numbering(small.annotations))


def made(generated: Path) -> Path:
    out = generated / "pool.json"
    masks = [generated / "segs" / "u2net", generated / "segs" / "clipseg"]
    make_pool(generated / "images", masks, out, similarity=generated / "filename_thres_0.6.csv")
    return out


def test_a_pool_of_pictures_with_masks_scores_and_similarities(small, generated: Path) -> None:
    pool = opened(made(generated), small, generated)
    assert pool.categories.tolist() == [0] * 6 + [1] * 6
    np.testing.assert_equal(pool.column("clip_score")[:6], [20, 21, 21, 22, np.nan, np.nan])
    np.testing.assert_equal(pool.column("area_fraction")[:6], [0.1, 0.1, 0.2, 0.2, np.nan, np.nan])
    np.testing.assert_equal(pool.column("inter_similarity")[:6], [np.nan, np.nan, 0.7, 0.7, np.nan, np.nan])
    assert pool.column("segmentation").tolist()[:2] == ["u2net", "clipseg"]
    source = pool.source(3)
    assert Path(source.path).is_file()
    assert source.mask_path is not None
    assert Path(source.mask_path).samefile(
        generated / "segs" / "clipseg" / small.annotations.category_names[0] / "0001.png"
    )


def test_what_does_not_fit_together_is_named(names: list[str], generated: Path) -> None:
    mask = generated / "segs" / "u2net" / names[1] / "0002.png"
    mask.rename(mask.with_name("9.png"))
    with pytest.raises(UserError, match=r"0002\.png does not exist: every image needs a mask"):
        made(generated)
    mask.with_name("9.png").rename(mask)
    (generated / "images" / names[0] / "0003.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"has 3 clip_scores of .*, whose folder holds 4 images"):
        made(generated)
    (generated / "segs" / "u2net" / "results.json").write_text("[3]")
    with pytest.raises(UserError, match=r"not a results\.json"):
        made(generated)
    with pytest.raises(UserError, match="no such folder"):
        make_pool(generated / "none", [], generated / "pool.json")


@pytest.mark.parametrize("by", ["name", "synset", "lvis_id"])
def test_categories_by_other_names(by: str, small, tmp_path: Path) -> None:
    known = small.annotations
    key = {"name": known.category_names, "synset": known.category_synsets, "lvis_id": known.category_ids}[by][3]
    path = tmp_path / "pool.json"
    path.write_text(json.dumps({"by": by, "instances": {str(key): ["a.png"]}}))
    assert opened(path, small, tmp_path).categories.tolist() == [3]
    with pytest.raises(UserError, match="which needs a dataset"):
        open_pool(path, 24, tmp_path / "other")
    path.write_text(json.dumps({"by": by, "instances": {"nothing_like_it": ["a.png"]}}))
    with pytest.raises(UserError, match=f"no category with {by} 'nothing_like_it'"):
        opened(path, small, tmp_path)
    path.write_text(json.dumps({"by": "colour", "instances": {}}))
    with pytest.raises(UserError, match="by is 'colour'"):
        opened(path, small, tmp_path)


@pytest.mark.parametrize("suffix", [".json", ".arrow", ".parquet"])
def test_pools_are_merged_with_their_columns(suffix: str, small, generated: Path) -> None:
    other = generated / "elsewhere" / "other.json"
    other.parent.mkdir()
    other.write_text(json.dumps({"1": ["*cut.png"], "30": ["x.png"]}))
    (other.parent / "other.columns.csv").write_text("category,path,generator\n1,*cut.png,sd\n30,x.png,if\n")
    out = generated / "both" / f"pool{suffix}"
    merge_pools([made(generated), other], out, Numbering(small.annotations))
    pool = open_pool(out, 31, generated / "cache")
    assert pool.categories.tolist() == [0] * 6 + [1] * 7 + [30]
    assert pool.source(12).path.endswith("elsewhere/cut.png")
    assert pool.source(12).isolated
    assert Path(pool.source(0).path).is_file()
    np.testing.assert_equal(pool.column("clip_score")[[0, 12]], [20, np.nan])
    assert pool.column("generator").tolist()[-2:] == ["sd", "if"]


def test_subsets_by_columns_and_number(small, generated: Path) -> None:
    source, numbering = made(generated), Numbering(small.annotations)

    def part(**options: object) -> InstancePool:
        subset_pool(source, generated / "part.json", numbering, **options)  # type: ignore[arg-type]
        return open_pool(generated / "part.json", 24, generated / "cache")

    assert part(where=["clip_score>=21"]).column("clip_score").tolist() == [21, 21, 22] * 2
    assert set(part(where=["segmentation=u2net", "clip_score<=20"]).column("clip_score")) == {20}
    few, more = part(per_category=2), part(per_category=4)
    assert few.categories.tolist() == [0, 0, 1, 1]
    assert set(few.column("path")) <= set(more.column("path"))
    with pytest.raises(UserError, match=r"clip_scores>=21: write .*clip_score"):
        part(where=["clip_scores>=21"])
    with pytest.raises(UserError, match="nothing is left of it"):
        part(where=["clip_score>=99"])


class Brightness:
    """Two axes: how much of a picture is white, and whether a text names the first category."""

    def __init__(self, first: str) -> None:
        self.first = first

    def images(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        white = [float((picture == 255).all(2).mean()) for picture in pictures]
        return torch.tensor([[share, 1 - share] for share in white])

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0] if text == f"a photo of {self.first}" else [0.0, 2.0] for text in texts])


def test_scores_are_cosines_of_instances_on_white(small, names: list[str], generated: Path) -> None:
    out = generated / "scored.json"
    source = generated / "plain.json"
    make_pool(generated / "images", [generated / "segs" / "u2net"], source)
    message = score_pool(source, out, small.annotations, Brightness(names[0].replace("_", " ")))
    assert message.endswith("6 with a score")
    pool = open_pool(out, 24, generated / "cache")
    areas = np.array([4, 5, 6]) * 8 / 256
    norm = np.hypot(areas, 1 - areas)
    np.testing.assert_allclose(pool.column("clip_score"), 100 * np.r_[(1 - areas) / norm, areas / norm], rtol=1e-5)


def test_scoring_without_open_clip_or_weights_says_what_to_do(tmp_path: Path, mini_root: Path) -> None:
    arguments = [
        "data",
        "score-pool",
        "p.json",
        "--weights",
        str(tmp_path / "w.pt"),
        "--out",
        "o.json",
        "--data",
        "mini",
    ]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError)
    assert "pip install" in str(done.exception) or "does not exist" in str(done.exception)


def test_the_commands_say_what_columns_there_are() -> None:
    done = CliRunner().invoke(app, ["data", "make-pool", "--help"], terminal_width=200)
    assert "NAME.columns.csv" in done.output
    assert "inter_similarity" in done.output
