"""Reading LVIS annotations: contents, cache, masks and every kind of bad file."""

import json
import multiprocessing
import os
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from harness.data.fingerprint import fingerprint
from harness.data.lvis.annotations import rasterise, rasterise_crop, segmentation_rle
from harness.data.lvis.cache import load_annotations
from harness.errors import UserError

REAL = Path(__file__).parents[1] / "evaluate" / "lvis_val_100.json"


@pytest.fixture(autouse=True)
def own_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("BSGAL_BENCH_CACHE", str(tmp_path / "home"))


def small() -> dict:
    """Two images, two categories, three annotations: the polygons of one, run lengths of two kinds for the others."""
    square = np.zeros((6, 8), np.uint8)
    square[2:4, 3:7] = 1
    rle = mask_utils.encode(np.asfortranarray(square))
    compressed = {"size": [6, 8], "counts": rle["counts"].decode()}
    uncompressed = {"size": [6, 8], "counts": [20, 2, 4, 2, 4, 2, 4, 2, 8]}
    category = {"frequency": "r", "image_count": 3, "instance_count": 4}
    image = {"height": 6, "width": 8, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    return {
        "categories": [{"id": 9, "name": "b", **category}, {"id": 2, "name": "a", **category, "frequency": "f"}],
        "images": [
            {**image, "id": 30, "coco_url": "http://host/train2017/000030.jpg", "file_name": "elsewhere.jpg"},
            {**image, "id": 4, "file_name": "4.jpg", "neg_category_ids": [9], "not_exhaustive_category_ids": [2]},
        ],
        "annotations": [
            {"id": 1, "image_id": 30, "category_id": 9, "bbox": [3, 2, 4, 2], "area": 8, "segmentation": compressed},
            {
                "id": 2,
                "image_id": 4,
                "category_id": 2,
                "bbox": [1.1, 2.2, 3.3, 1.7],
                "area": 5.61,
                "segmentation": [[1.1, 2.2, 4.4, 2.2, 4.4, 3.9, 1.1, 3.9], [0, 0, 1, 0, 1, 1]],
            },
            {"id": 3, "image_id": 30, "category_id": 2, "bbox": [3, 2, 4, 2], "area": 8, "segmentation": uncompressed},
        ],
    }


def write(folder: Path, data: dict) -> Path:
    path = folder / "lvis.json"
    path.write_text(json.dumps(data))
    return path


def test_contents_are_by_id_and_exact(tmp_path):
    found = load_annotations(write(tmp_path, small()))
    assert found.category_ids.tolist() == [2, 9]
    assert found.category_names.tolist() == ["a", "b"]
    assert found.frequency.tolist() == ["f", "r"]
    assert found.image_ids.tolist() == [4, 30]
    assert found.file_names.tolist() == ["4.jpg", "train2017/000030.jpg"]
    assert found.negatives_of(0).tolist() == [1]
    assert found.negatives_of(1).tolist() == []
    assert found.not_exhaustive_of(0).tolist() == [0]
    assert found.annotation_ids[found.annotations_of(0)].tolist() == [2]
    assert found.annotation_ids[found.annotations_of(1)].tolist() == [1, 3]
    assert found.annotation_categories.tolist() == [0, 1, 0]
    assert found.boxes[0].tolist() == [1.1, 2.2, 3.3, 1.7]
    first, last = found.point_offsets[found.polygon_offsets[0] : found.polygon_offsets[0] + 2]
    assert found.coordinates[first:last].tolist() == [1.1, 2.2, 4.4, 2.2, 4.4, 3.9, 1.1, 3.9]


def test_both_run_length_forms_give_the_mask(tmp_path):
    found = load_annotations(write(tmp_path, small()))
    square = np.zeros((6, 8), bool)
    square[2:4, 3:7] = True
    assert np.array_equal(rasterise(found, 1), square)
    assert np.array_equal(rasterise(found, 2), square)
    crop, origin = rasterise_crop(found, 1)
    assert crop.shape == (2, 4)
    assert crop.all()
    assert origin == (3, 2)


def test_masks_equal_the_lvis_package():
    from lvis import LVIS

    found, package = load_annotations(REAL), LVIS(str(REAL))
    for index in range(0, len(found.areas), 7):
        wanted = package.ann_to_mask(package.anns[int(found.annotation_ids[index])])
        assert np.array_equal(rasterise(found, index), wanted)
        crop, (x, y) = rasterise_crop(found, index)
        pasted = np.zeros_like(wanted)
        pasted[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert np.array_equal(pasted, wanted)


def test_counts_are_taken_from_the_annotations_when_absent(tmp_path):
    data = small()
    data["annotations"].append({**data["annotations"][0], "id": 4})
    for category in data["categories"]:
        del category["image_count"], category["instance_count"]
    found = load_annotations(write(tmp_path, data))
    assert found.image_counts.tolist() == [2, 1]


def _polygon_sum(annotations) -> tuple[float, str]:
    return float(annotations.coordinates.sum()), str(annotations.cache)


def test_cache_gives_the_same_arrays_and_workers_share_it(tmp_path):
    plain = load_annotations(REAL)
    written = load_annotations(REAL, tmp_path / "cache")
    opened = load_annotations(REAL, tmp_path / "cache")
    for item in fields(plain):
        if item.name != "cache":
            a, b, c = (getattr(x, item.name) for x in (plain, written, opened))
            assert a.dtype == b.dtype == c.dtype
            assert np.array_equal(a, b)
            assert np.array_equal(a, c)
    assert not opened.boxes.flags.writeable
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(pickle.dumps(opened)) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_polygon_sum, (opened,)) == _polygon_sum(opened)


def test_changed_file_is_read_anew(tmp_path):
    path = write(tmp_path, small())
    assert len(load_annotations(path, tmp_path / "cache").areas) == 3
    data = small()
    data["annotations"].pop()
    assert len(load_annotations(write(tmp_path, data), tmp_path / "cache").areas) == 2


def test_damaged_cache_is_named(tmp_path):
    path = write(tmp_path, small())
    folder = load_annotations(path, tmp_path / "cache").cache
    (folder / "boxes.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="damaged"):
        load_annotations(path, tmp_path / "cache")


def test_unwritable_cache_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder is wanted")
    with pytest.raises(UserError, match="cannot be written"):
        load_annotations(write(tmp_path, small()), tmp_path / "cache")


def test_empty_lists_are_cached(tmp_path):
    data = small() | {"annotations": []}
    path = write(tmp_path, data)
    load_annotations(path, tmp_path / "cache")
    assert load_annotations(path, tmp_path / "cache").boxes.shape == (0, 4)


def test_fingerprint_follows_contents(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert fingerprint(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    stat = path.stat()
    path.write_bytes(b"abd")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert fingerprint(path) != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match="nothing"):
        fingerprint(tmp_path / "nothing")


def test_missing_folder_and_file_say_what_to_download(tmp_path):
    with pytest.raises(UserError, match=r"lvis does not exist.*https://www.lvisdataset.org"):
        load_annotations(tmp_path / "lvis" / "lvis_v1_train.json")
    with pytest.raises(UserError, match=r"lvis_v1_train.json does not exist.*https://www.lvisdataset.org"):
        load_annotations(tmp_path / "lvis_v1_train.json")


def test_file_cut_in_half_is_named_with_its_place(tmp_path):
    path = tmp_path / "half.json"
    text = REAL.read_bytes()
    path.write_bytes(text[: len(text) // 2])
    with pytest.raises(UserError, match=rf"half.json: invalid JSON at line 1, column \d+ of {len(text) // 2} bytes"):
        load_annotations(path)


def _set(section, number, key, value):
    def change(data):
        data[section][number][key] = value

    return change


def _drop(section, number, key):
    def change(data):
        del data[section][number][key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("annotations", 1, "category_id", 77), "annotation 2: category 77 does not exist"),
        (_set("annotations", 2, "image_id", 5), "annotation 3: image 5 does not exist"),
        (_set("images", 1, "neg_category_ids", [3]), "image 4: 'neg_category_ids' names category 3"),
        (_set("annotations", 1, "id", 1), "annotation id 1 appears 2 times"),
        (_set("images", 1, "id", 30), "image id 30 appears 2 times"),
        (_set("categories", 1, "frequency", "x"), "category 2: frequency is 'x'"),
        (
            _set("annotations", 1, "bbox", [1, 2, 3]),
            r"annotation 2: 'bbox' is \[1, 2, 3\], expected a list of 4 numbers",
        ),
        (_set("annotations", 1, "bbox", [1, 2, "3", 4]), "annotation 2: 'bbox' is .* a list of 4 numbers"),
        (_set("annotations", 1, "area", None), "annotation 2: 'area' is None, expected a number"),
        (_set("annotations", 1, "image_id", "4"), "annotation 2: 'image_id' is '4', expected an integer"),
        (_set("annotations", 1, "segmentation", [[1, 2, 3, 4, 5]]), "annotation 2: a polygon of 5 numbers"),
        (_set("annotations", 1, "segmentation", 3), "annotation 2: the segmentation is neither"),
        (_set("annotations", 0, "segmentation", {"size": [8, 6], "counts": "a"}), "annotation 1: the run-length mask"),
        (_drop("annotations", 1, "area"), "annotation 2 has no 'area'"),
        (_drop("images", 0, "neg_category_ids"), "image 30 has no 'neg_category_ids'"),
        (_drop("images", 1, "file_name"), "image 4 has neither 'coco_url' nor 'file_name'"),
        (_drop("categories", 0, "frequency"), "category 9 has no 'frequency'"),
        (_drop("annotations", 1, "id"), "annotation number 1 has no 'id'"),
        (lambda data: data.pop("images"), "has no list 'images'"),
        (lambda data: data["annotations"].append(5), "annotation number 3 is not an object"),
        (lambda data: data["images"].clear(), "has no images"),
        (lambda data: data["categories"].clear(), "has no categories"),
    ],
)
def test_bad_files_name_the_offender(tmp_path, change, message):
    data = small()
    change(data)
    with pytest.raises(UserError, match=message) as caught:
        load_annotations(write(tmp_path, data))
    assert "lvis.json" in str(caught.value)


def test_coco_is_declined_in_one_sentence(tmp_path):
    data = small()
    for category in data["categories"]:
        del category["frequency"]
        category["supercategory"] = "thing"
    for image in data["images"]:
        del image["neg_category_ids"]
    with pytest.raises(UserError, match=r"lvis\.json: holds COCO annotations, but only LVIS annotations are supported"):
        load_annotations(write(tmp_path, data))


def test_annotation_without_segmentation_is_named_when_its_mask_is_wanted(tmp_path):
    data = small()
    del data["annotations"][1]["segmentation"]
    found = load_annotations(write(tmp_path, data))
    with pytest.raises(UserError, match="annotation 2 has no segmentation"):
        segmentation_rle(found, 0)
