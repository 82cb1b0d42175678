"""The fixed tenth of LVIS: on a made-up file with LVIS's long tail."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.data.lvis.annotations import Annotations, segmentation_rle
from harness.data.lvis.cache import load_annotations, load_tenth
from harness.data.lvis.tenth import chosen

IMAGES, CATEGORIES = 600, 40
FIRST = [24, 87, 115, 248, 360, 388, 528, 598]  # of the tenth, for ever: a list of other images is another dataset


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file: categories in 2 to 400 of 600 images, polygons and run lengths, images without annotations."""
    rng = np.random.default_rng(3)
    counts = np.geomspace(2, 400, CATEGORIES).astype(int)
    images = [
        {
            "id": 7 * i + 3,
            "width": 60,
            "height": 40,
            "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
            "neg_category_ids": rng.choice(CATEGORIES, 3, replace=False).__add__(1).tolist(),
            "not_exhaustive_category_ids": [int(rng.integers(1, CATEGORIES + 1))] if i % 5 == 0 else [],
        }
        for i in range(IMAGES)
    ]
    annotations = []
    for category, count in enumerate(counts):
        for image in rng.choice(IMAGES - 20, count, replace=False):
            x, y = rng.integers(0, 30, 2).tolist()
            polygon = [x, y, x + 9, y, x + 9, y + 8, x, y + 8]
            two = [polygon, [x, y, x + 4, y, x + 4, y + 4]]
            rle = {"size": [40, 60], "counts": [100 + x, 30, 2270 - x]}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * int(image) + 3,
                    "category_id": category + 1,
                    "bbox": [x, y, 9, 8],
                    "area": 72,
                    "segmentation": rle if len(annotations) % 7 == 0 else two,
                }
            )
    groups = np.where(counts <= 10, "r", np.where(counts <= 100, "c", "f"))
    categories = [
        {"id": c + 1, "name": f"thing {c}", "synset": f"thing.n.{c}", "frequency": groups[c]}
        | {"image_count": int(counts[c]), "instance_count": int(counts[c])}
        for c in range(CATEGORIES)
    ]
    folder = tmp_path_factory.mktemp("datasets")
    path = folder / "lvis" / "lvis_v1_train.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def in_words(annotations: Annotations, image_id: int) -> tuple[object, ...]:
    """All that a file says of an image."""
    index = int(np.flatnonzero(annotations.image_ids == image_id)[0])
    own = annotations.annotations_of(index)
    masks = [segmentation_rle(annotations, each)["counts"] for each in range(own.start, own.stop)]
    rows = [getattr(annotations, name)[own].tolist() for name in ("annotation_ids", "annotation_categories", "boxes")]
    negatives, open_ended = annotations.negatives_of(index).tolist(), annotations.not_exhaustive_of(index).tolist()
    return (*rows, masks, negatives, open_ended, annotations.file_names[index], annotations.widths[index])


def images_of(annotations: Annotations) -> np.ndarray:
    pairs = np.stack([annotations.annotation_categories, annotations.annotation_images])
    return np.bincount(np.unique(pairs, axis=1)[0], minlength=CATEGORIES)


def test_a_tenth_of_images_and_of_each_category_s_with_all_that_they_hold(file: Path, tmp_path: Path) -> None:
    whole, part = load_annotations(file), load_tenth(file, tmp_path)
    held, left = images_of(whole), images_of(part)
    assert 60 <= len(part.image_ids) <= 75
    assert (left >= np.ceil(held / 10)).all()
    assert (left <= np.maximum(4, 0.25 * held)).all()
    assert part.frequency.tolist() == whole.frequency.tolist()
    assert part.image_counts.tolist() == left.tolist()
    assert all(first < second for first, second in pairwise(part.image_ids.tolist()))
    for image_id in part.image_ids.tolist():
        assert in_words(part, image_id) == in_words(whole, image_id)


def test_which_images_follows_from_the_file_s_contents_and_not_from_its_order(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    shuffled = {name: list(reversed(rows)) if name != "categories" else rows for name, rows in content.items()}
    other = tmp_path / "shuffled.json"
    other.write_text(json.dumps(shuffled))
    first, again = load_annotations(file), load_annotations(other)
    ids = first.image_ids[chosen(first)]
    assert again.image_ids[chosen(again)].tolist() == ids.tolist()
    assert ids[:8].tolist() == FIRST


def test_data_lvis_tenth_trains_on_it_and_validates_on_the_whole_split(file: Path) -> None:
    (file.parent / "lvis_v1_val.json").write_bytes(file.read_bytes())
    dataset = Dataset(compose(["recipe=tenth_r50", f"data.root={file.parents[1]}"]).config.data)
    assert len(dataset.train.image_ids) < 80
    assert len(dataset.val.image_ids) == IMAGES
    assert dataset.facts.num_images == len(dataset.train.image_ids)
