"""The embedded dataset against what it promises: a valid LVIS, rare look-alikes, pools of known quality."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
from lvis import LVIS
from pycocotools import mask as coco_mask

from harness.data.mini.make import CATEGORIES, LOOK_ALIKE, MiniPaths, make_mini, mask_to_polygons
from harness.data.mini.pools import CONFUSED, EXTRA_CATEGORIES, KINDS, POOLS, SHARES, WITH_ORACLE
from harness.errors import UserError

SMALL = {"train_images": 40, "val_images": 24, "pool_instances": 4}
BY_NAME = {category.name: category for category in CATEGORIES}


@pytest.fixture(scope="module")
def mini(mini_root: Path) -> MiniPaths:
    """The dataset at its real size: its promises are about counts."""
    return MiniPaths(mini_root)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> MiniPaths:
    return make_mini(tmp_path_factory.mktemp("small") / "mini", **SMALL)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_lvis_package_reads_it_and_every_image_is_there(mini: MiniPaths, split: str) -> None:
    lvis = LVIS(str(mini.train_annotations if split == "train" else mini.val_annotations))
    assert len(lvis.imgs) == {"train": 400, "val": 120}[split]
    for image in lvis.imgs.values():
        pixels = cv2.imread(str(mini.images.joinpath(*image["coco_url"].split("/")[-2:])))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert 112 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= 128
    assert set(read(mini.val_annotations)) == {"info", "licenses", "images", "annotations", "categories"}


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_boxes_and_areas_agree_and_masks_are_apart(mini: MiniPaths, split: str) -> None:
    lvis = LVIS(str(mini.train_annotations if split == "train" else mini.val_annotations))
    covered: dict[int, np.ndarray] = {}
    for annotation in lvis.anns.values():
        mask = lvis.ann_to_mask(annotation)
        rows, columns = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)
        assert mask.sum() == annotation["area"] >= 20
        taken = covered.setdefault(annotation["image_id"], np.zeros_like(mask))
        assert not (taken & mask).any()
        taken |= mask
    assert set(covered) == set(lvis.imgs)


def test_polygons_give_the_mask_back() -> None:
    mask = np.zeros((20, 24), bool)
    mask[2:9, 3:12] = True
    mask[9:14, 10:20] = True
    mask[0, 0] = mask[19, 23] = mask[15, 5] = mask[16, 6] = True
    rle = coco_mask.merge(coco_mask.frPyObjects(mask_to_polygons(mask), 20, 24))
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)


def test_frequency_bands_are_those_of_lvis(mini: MiniPaths) -> None:
    train = read(mini.train_annotations)
    images, instances = defaultdict(set), Counter()
    for annotation in train["annotations"]:
        images[annotation["category_id"]].add(annotation["image_id"])
        instances[annotation["category_id"]] += 1
    bands = Counter()
    assert len(train["categories"]) >= 24
    for category in train["categories"]:
        count = len(images[category["id"]])
        assert category["frequency"] == ("r" if count <= 10 else "c" if count <= 100 else "f")
        assert (category["image_count"], category["instance_count"]) == (count, instances[category["id"]])
        assert count >= 1
        bands[category["frequency"]] += 1
    assert len(set(bands.values())) == 1
    assert train["categories"] == read(mini.val_annotations)["categories"]


def test_rare_categories_differ_from_a_frequent_one_in_texture_or_hue_alone() -> None:
    rare = [category for category in CATEGORIES if category.frequency == "r"]
    changed = Counter()
    for category in rare:
        twin = BY_NAME[category.twin or ""]
        assert twin.frequency == "f"
        own, other = vars(category.look), vars(twin.look)
        differing = [name for name in own if own[name] != other[name]]
        assert differing in (["texture"], ["hue"])
        changed[differing[0]] += 1
    assert set(changed) == {"texture", "hue"}
    assert len({category.twin for category in rare}) == len(rare)


def test_val_is_balanced(mini: MiniPaths) -> None:
    counts = Counter(annotation["category_id"] for annotation in read(mini.val_annotations)["annotations"])
    assert len(counts) == len(CATEGORIES)
    assert min(counts.values()) >= 16
    assert max(counts.values()) <= 2 * min(counts.values())


@pytest.mark.parametrize("split", ["train", "val"])
def test_negative_and_not_exhaustive_lists(mini: MiniPaths, split: str) -> None:
    data = read(mini.train_annotations if split == "train" else mini.val_annotations)
    present = defaultdict(set)
    for annotation in data["annotations"]:
        present[annotation["image_id"]].add(annotation["category_id"])
    negative, unfinished = Counter(), 0
    for image in data["images"]:
        absent, open_ended = set(image["neg_category_ids"]), set(image["not_exhaustive_category_ids"])
        assert absent
        assert not absent & (present[image["id"]] | open_ended)
        negative.update(absent)
        unfinished += bool(open_ended)
    assert len(negative) == len(CATEGORIES)
    assert 0.04 <= unfinished / len(data["images"]) <= 0.25


def test_an_image_that_is_not_exhaustive_can_show_unannotated_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.data.mini import make as embedded

    drawn: list[str] = []
    real = embedded._find_place

    def watch(look, *arguments):
        found = real(look, *arguments)
        if found is not None:
            drawn.append(look.shape)
        return found

    monkeypatch.setattr(embedded, "_find_place", watch)
    surplus = 0
    for seed in range(20):
        drawn.clear()
        _, objects = embedded._render_image([0, 5], [5], np.random.default_rng(seed))
        surplus += len(drawn) - len(objects)
    assert 5 <= surplus <= 40


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(small: MiniPaths, tmp_path: Path) -> None:
    assert digest(make_mini(tmp_path / "again", **SMALL).folder) == digest(small.folder)
    other = digest(make_mini(tmp_path / "other", seed=1, **SMALL).folder)
    assert other["lvis/lvis_v1_train.json"] != digest(small.folder)["lvis/lvis_v1_train.json"]


@pytest.mark.parametrize("name", POOLS)
def test_pools_have_the_published_form_and_the_promised_share_of_bad_ones(mini: MiniPaths, name: str) -> None:
    listing = read(mini.pool(name))
    truth = pa_parquet.read_table(mini.truth(name)).to_pylist()
    columns = pa_csv.read_csv(mini.columns(name)).to_pylist()
    pairs = [(int(key), path) for key, paths in listing.items() for path in paths]
    assert pairs == [(row["category"], row["path"]) for row in truth]
    assert pairs == [(row["category"], row["path"]) for row in columns]
    kinds = Counter(row["kind"] for row in truth)
    share = {**SHARES, "confused": CONFUSED}.get(name, 0.0)
    assert 1 - kinds["clean"] / len(truth) == pytest.approx(share, abs=0.01)
    if share:
        assert set(kinds) == ({"clean", "wrong_label"} if name == "confused" else set(KINDS))
    for row in truth:
        expected = {"clean": True, "broken_mask": True, "wrong_label": False, "off_distribution": False}[row["kind"]]
        assert (row["true_category"] == row["category"]) is expected
        assert (row["true_category"] == -1) is (row["kind"] == "off_distribution")
    extra = len(EXTRA_CATEGORIES) if name == "extra" else 0
    assert sorted({category for category, _ in pairs}) == list(range(len(CATEGORIES) + extra))
    assert min(map(len, listing.values())) >= (12 if name.endswith("_oracle") else 60)
    for key in ("generator", "prompt_id"):
        for category in (0, len(CATEGORIES) - 1):
            assert len({row[key] for row in columns if row["category"] == category}) >= 2


def test_pools_are_nested_and_the_oracle_is_the_clean_part(mini: MiniPaths) -> None:
    rows = {name: pa_parquet.read_table(mini.truth(name)).to_pylist() for name in POOLS}
    good = {name: {r["path"] for r in rows[name] if r["kind"] == "clean"} for name in POOLS}
    bad = {name: {r["path"] for r in rows[name] if r["kind"] != "clean"} for name in POOLS}
    ordered = sorted(SHARES, key=lambda name: SHARES[name])
    for less, more in pairwise(ordered):
        assert bad[less] < bad[more]
        assert good[more] < good[less]
    for name in WITH_ORACLE:
        assert good[f"{name}_oracle"] == good[name]
        assert not bad[f"{name}_oracle"]


def test_confused_instances_show_the_look_alike_and_neither_path_nor_prompt_tells(mini: MiniPaths) -> None:
    truth = pa_parquet.read_table(mini.truth("confused")).to_pylist()
    wrong = [row for row in truth if row["kind"] != "clean"]
    numbers = {True: [], False: []}
    for row in truth:
        own, shown = (CATEGORIES[row[key]].name for key in ("category", "true_category"))
        if row["kind"] != "clean":
            assert shown == LOOK_ALIKE.get(own, shown) != own
        assert Path(row["path"]).parent.name == own
        numbers[row["kind"] == "clean"].append(int(Path(row["path"]).stem))
    assert np.mean(numbers[True]) == pytest.approx(np.mean(numbers[False]), abs=3)
    columns = {row["path"]: row for row in pa_csv.read_csv(mini.columns("confused")).to_pylist()}
    assert all(CATEGORIES[row["category"]].name in columns[row["path"]]["prompt"] for row in wrong)


def test_cut_outs_pass_the_paste_filters_when_clean(mini: MiniPaths) -> None:
    for row in pa_csv.read_csv(mini.columns("extra")).to_pylist():
        rgba = cv2.imread(str(mini.pool("extra").parent / row["path"]), cv2.IMREAD_UNCHANGED)
        assert rgba.shape == (96, 96, 4)
        inside = (rgba[..., 3] > 128).astype(np.uint8)
        assert 0.08 <= inside.mean() <= 0.6
        areas = cv2.connectedComponentsWithStats(inside)[2][1:, cv2.CC_STAT_AREA]
        assert areas.max() >= 0.97 * inside.sum()
        assert row["area_fraction"] == pytest.approx(inside.mean(), rel=0.04)
        border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        assert not border.any()


def test_clip_scores_tell_a_little_of_quality_and_names_nothing(mini: MiniPaths) -> None:
    clean = {r["path"]: r["kind"] == "clean" for r in pa_parquet.read_table(mini.truth("half_bad")).to_pylist()}
    columns = pa_csv.read_csv(mini.columns("half_bad")).to_pylist()

    def area_under_curve(score) -> float:
        good = np.array([score(row) for row in columns if clean[row["path"]]])
        bad = np.array([score(row) for row in columns if not clean[row["path"]]])
        return float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2)

    assert 0.6 <= area_under_curve(lambda row: row["clip_score"]) <= 0.8
    assert area_under_curve(lambda row: int(Path(row["path"]).stem)) == pytest.approx(0.5, abs=0.06)
    assert area_under_curve(lambda row: row["prompt_id"]) == pytest.approx(0.5, abs=0.06)
    assert area_under_curve(lambda row: row["generator"] == "soft") == pytest.approx(0.5, abs=0.06)


def test_disk_size(mini: MiniPaths) -> None:
    made = [path for path in mini.folder.rglob("*") if mini.folder / "cache" not in path.parents]
    blocks = sum(path.stat().st_blocks * 512 for path in made)
    assert blocks <= 64_000_000


def test_reused_when_whole_and_made_again_when_not(tmp_path: Path) -> None:
    paths = make_mini(tmp_path / "mini", **SMALL)
    made = paths.stamp.stat().st_mtime_ns
    make_mini(tmp_path / "mini", **SMALL)
    assert paths.stamp.stat().st_mtime_ns == made
    lost = next((paths.folder / "pools" / "instances").rglob("*.png"))
    lost.unlink()
    make_mini(tmp_path / "mini", **SMALL)
    assert lost.exists()
    make_mini(tmp_path / "mini", **{**SMALL, "val_images": 12})
    assert len(read(paths.val_annotations)["images"]) == 12


def test_other_people_s_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="other files than the embedded dataset"):
        make_mini(tmp_path, **SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    with pytest.raises(UserError, match="train_images"):
        make_mini(tmp_path / "tiny", train_images=3)


def test_two_processes_at_once(small: MiniPaths, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=make_mini, args=(tmp_path / "mini",), kwargs=SMALL) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert digest(tmp_path / "mini") == digest(small.folder)


def test_killed_while_making_leaves_nothing_that_looks_whole(small: MiniPaths, tmp_path: Path) -> None:
    make = f"make_mini(Path({str(tmp_path)!r})/'m')"
    code = f"from pathlib import Path; from harness.data.mini.make import make_mini; {make}"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".m.part/coco/train2017/*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "m").exists()
    assert digest(make_mini(tmp_path / "m", **SMALL).folder) == digest(small.folder)
    assert not (tmp_path / ".m.part").exists()


def test_what_others_put_there_outlives_every_rebuild(tmp_path: Path) -> None:
    paths = make_mini(tmp_path / "mini", **SMALL)
    others = [paths.folder / "pools" / "mine.json", paths.folder / "coco" / "mine.png", paths.folder / "notes.txt"]
    for path in others:
        path.write_text("precious")
    made = paths.stamp.stat().st_mtime_ns
    make_mini(tmp_path / "mini", **SMALL)
    assert paths.stamp.stat().st_mtime_ns == made
    paths.val_annotations.unlink()
    make_mini(tmp_path / "mini", **SMALL)
    make_mini(tmp_path / "mini", **{**SMALL, "val_images": 12})
    assert len(list((paths.images / "val2017").iterdir())) == 12
    assert [path.read_text() for path in others] == ["precious"] * 3


@pytest.mark.parametrize("stamp", ["{}", '{"recipe": null, "files": {"../thesis.tex": null}}', "[" * 100_000, ""])
def test_a_file_that_is_called_like_the_stamp_gives_no_leave(stamp: str, tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    folder.mkdir()
    for path in (tmp_path / "thesis.tex", folder / "thesis.tex"):
        path.write_text("precious")
    (folder / "mini.json").write_text(stamp)
    with pytest.raises(UserError, match="other files than the embedded dataset"):
        make_mini(folder, **SMALL)
    assert (folder / "mini.json").read_text() == stamp
    assert (tmp_path / "thesis.tex").exists()
    assert (folder / "thesis.tex").exists()


def test_a_folder_of_an_older_version_is_used_as_it_is(tmp_path: Path) -> None:
    paths = make_mini(tmp_path / "mini", **SMALL)
    stamp = read(paths.stamp)
    paths.stamp.write_text(json.dumps({"recipe": stamp["recipe"], "files": len(stamp["files"])}))
    (paths.folder / "pools" / "mine.json").write_text("{}")
    make_mini(tmp_path / "mini", **SMALL)
    assert read(paths.stamp)["files"] == len(stamp["files"])
    (paths.folder / "pools" / "mine.json").unlink()
    paths.val_annotations.unlink()
    with pytest.raises(UserError, match="only part of it"):
        make_mini(tmp_path / "mini", **SMALL)
