"""The embedded dataset `mini`: a small LVIS made from a seed, and pools of generated instances of known quality.

Its folder is laid out like the real data: `lvis/*.json` (LVIS v1), `coco/train2017`, `coco/val2017`,
`pools/NAME.json` (the published X-Paste format) with cut-outs below `pools/instances` and what a pool index holds of
them in `pools/NAME.columns.csv`, and `truth/NAME.parquet`, which instances are good and which are not. Methods never
see the truth; reports do.

Each rare category is a frequent one with its texture or its hue changed, so that few examples are really too few.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.data.mini.pools import write_pools
from harness.data.mini.render import (
    Cutout,
    Look,
    composite,
    draw_pose,
    finish_photograph,
    footprint,
    real_light,
    render_background,
    render_object,
    write_png,
)
from harness.data.mini.stamp import NAME, Stamp, check_room, move_in, read_stamp, stamp_of, write_stamp
from harness.data.seeding import generator
from harness.errors import UserError

# Raised when the same recipe would give other files. The first is written into the annotations, by whose contents runs
# are named; the second is of the pools alone.
VERSION, POOLS_VERSION = 1, 3

IMAGE_SIDES = (112, 120, 128)
OBJECT_EXTENT = (20.0, 58.0)  # pixels
CATEGORIES_PER_IMAGE = 6  # at most
EXTRA_INSTANCE = 0.2  # probability of a second object of a category in an image
VAL_IMAGES_PER_CATEGORY = 18  # of FULL_VAL
NEGATIVES = (5, 9)  # categories verified as absent, fewest and most per image
TWIN_NEGATIVE = 0.6  # probability that the look-alike of a category in the image is among them
NOT_EXHAUSTIVE = 0.12  # share of images with a category that is not annotated to the last object
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.5, 30
FULL_TRAIN, FULL_VAL = 400, 120  # the sizes for which the counts of images below are meant


@dataclass(frozen=True)
class Category:
    """A category of the dataset. `train_images` is the number of training images that show it; `twin` the name of
    the frequent category that a rare one looks like."""

    name: str
    look: Look
    frequency: str
    train_images: int
    twin: str | None = None


def _categories() -> tuple[Category, ...]:
    frequent = [
        Category("striped_red_disc", Look("disc", "striped", 2), "f", 112),
        Category("dotted_blue_square", Look("square", "dotted", 220), "f", 118),
        Category("plain_green_triangle", Look("triangle", "plain", 130), "f", 124),
        Category("ringed_yellow_star", Look("star", "ringed", 50, "dark"), "f", 130),
        Category("checked_purple_hexagon", Look("hexagon", "checked", 280), "f", 136),
        Category("halved_pink_heart", Look("heart", "halved", 330, "dark"), "f", 142),
        Category("plain_cyan_drop", Look("drop", "plain", 185), "f", 150),
        Category("dotted_orange_cross", Look("cross", "dotted", 25, "dark"), "f", 160),
    ]
    rare = [
        Category("checked_red_disc", Look("disc", "checked", 2), "r", 2, "striped_red_disc"),
        Category("dotted_green_square", Look("square", "dotted", 140), "r", 3, "dotted_blue_square"),
        Category("striped_green_triangle", Look("triangle", "striped", 130), "r", 4, "plain_green_triangle"),
        Category("ringed_green_star", Look("star", "ringed", 120, "dark"), "r", 6, "ringed_yellow_star"),
        Category("cored_purple_hexagon", Look("hexagon", "cored", 280), "r", 7, "checked_purple_hexagon"),
        Category("halved_blue_heart", Look("heart", "halved", 240, "dark"), "r", 8, "halved_pink_heart"),
        Category("dotted_cyan_drop", Look("drop", "dotted", 185), "r", 9, "plain_cyan_drop"),
        Category("dotted_purple_cross", Look("cross", "dotted", 300, "dark"), "r", 10, "dotted_orange_cross"),
    ]
    common = [
        Category("striped_blue_crescent", Look("crescent", "striped", 215), "c", 12),
        Category("plain_red_arrow", Look("arrow", "plain", 0), "c", 18),
        Category("cored_yellow_flower", Look("flower", "cored", 50, "dark"), "c", 26),
        Category("checked_brown_house", Look("house", "checked", 20, "dark"), "c", 36),
        Category("dotted_red_mushroom", Look("mushroom", "dotted", 355), "c", 48),
        Category("striped_orange_fish", Look("fish", "striped", 30), "c", 60),
        Category("plain_green_bottle", Look("bottle", "plain", 140), "c", 75),
        Category("ringed_violet_gear", Look("gear", "ringed", 265), "c", 90),
    ]
    return tuple(sorted(frequent + rare + common, key=lambda category: category.name))


CATEGORIES = _categories()  # category i of the contiguous labels has LVIS id i + 1
LOOK_ALIKE = {c.name: c.twin for c in CATEGORIES if c.twin} | {c.twin: c.name for c in CATEGORIES if c.twin}


@dataclass(frozen=True)
class MiniPaths:
    """Where things lie below the dataset's folder."""

    folder: Path

    @property
    def train_annotations(self) -> Path:
        """LVIS v1 JSON of the training split."""
        return self.folder / "lvis" / "lvis_v1_train.json"

    @property
    def val_annotations(self) -> Path:
        """LVIS v1 JSON of the validation split."""
        return self.folder / "lvis" / "lvis_v1_val.json"

    @property
    def images(self) -> Path:
        """The folder to which the last two parts of a `coco_url` are relative."""
        return self.folder / "coco"

    def pool(self, name: str) -> Path:
        """The published-format JSON of a pool; names in `mini.pools.POOLS`."""
        return self.folder / "pools" / f"{name}.json"

    def columns(self, name: str) -> Path:
        """CSV: category (0-based), path, generator, prompt_id, prompt, clip_score, area_fraction (0..1)."""
        return self.folder / "pools" / f"{name}.columns.csv"

    def truth(self, name: str) -> Path:
        """Parquet: category, path, kind (see `mini.pools.KINDS`), true_category (0-based, -1 for none)."""
        return self.folder / "truth" / f"{name}.parquet"

    @property
    def stamp(self) -> Path:
        """JSON: what the dataset was made from, and the files that were made; see `mini.stamp`."""
        return self.folder / NAME


def make_mini(
    folder: Path,
    seed: int = 0,
    train_images: int = FULL_TRAIN,
    val_images: int = FULL_VAL,
    pool_instances: int = 64,
) -> MiniPaths:
    """Make the embedded dataset in `folder`, or reuse it when it is whole and of the same recipe.

    With fewer images than the default the counts per category shrink in proportion. The same recipe gives the same
    bytes. Safe against being killed and against a second process that makes the same folder.

    Raises UserError when the sizes are too small or `folder` holds something that this function did not make.
    """
    if train_images < 24 or val_images < 12 or pool_instances < 2:
        raise UserError("data=mini needs train_images >= 24, val_images >= 12 and pool_instances >= 2")
    recipe = {
        "version": VERSION,
        "pools_version": POOLS_VERSION,
        "seed": seed,
        "train_images": train_images,
        "val_images": val_images,
        "pool_instances": pool_instances,
    }
    folder = Path(folder).absolute()
    paths = MiniPaths(folder)
    if _is_whole(folder, recipe):
        return paths
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(f".{folder.name}.lock")):
        if _is_whole(folder, recipe):
            return paths
        check_room(folder)
        building = folder.with_name(f".{folder.name}.part")
        if building.exists():
            check_room(building)
            shutil.rmtree(building)
        _build(MiniPaths(building), recipe)
        move_in(building, folder)
        shutil.rmtree(building, ignore_errors=True)
    return paths


def _is_whole(folder: Path, recipe: dict[str, int]) -> bool:
    stamp = read_stamp(folder)
    return stamp is not None and stamp.is_whole(folder, recipe)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; released when that process ends, even if it is killed."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(paths: MiniPaths, recipe: dict[str, int]) -> None:
    write_stamp(paths.folder, Stamp(None, {}))  # marks a half-made folder as ours
    train = _make_split("train", recipe["train_images"], recipe["seed"], paths)
    val = _make_split("val", recipe["val_images"], recipe["seed"], paths)
    categories = _category_records(train["annotations"])
    for split, path in ((train, paths.train_annotations), (val, paths.val_annotations)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**split, "categories": categories}, separators=(",", ":")))
    write_pools(paths, CATEGORIES, LOOK_ALIKE, recipe["pool_instances"], recipe["seed"])
    write_stamp(paths.folder, stamp_of(paths.folder, recipe))


# --- which categories an image shows ---------------------------------------------------------------------------------


def _images_per_category(split: str, images: int) -> list[int]:
    if split == "val":
        return [max(1, round(VAL_IMAGES_PER_CATEGORY * images / FULL_VAL))] * len(CATEGORIES)
    shares = {"f": images / FULL_TRAIN, "c": min(1.0, images / FULL_TRAIN), "r": min(1.0, images / FULL_TRAIN)}
    return [max(1, round(c.train_images * shares[c.frequency])) for c in CATEGORIES]


def _plan(split: str, images: int, seed: int) -> list[list[int]]:
    """The categories of every image, each category in its number of images, spread by how full the images are."""
    rng = generator(seed, f"mini/{split}/plan")
    shown: list[list[int]] = [[] for _ in range(images)]
    counts = _images_per_category(split, images)
    for category in sorted(range(len(CATEGORIES)), key=lambda c: -counts[c]):
        room = np.array([max(CATEGORIES_PER_IMAGE - len(content), 0.01) for content in shown])
        for image in rng.choice(images, counts[category], replace=False, p=room / room.sum()):
            shown[image].append(category)
    frequent = [i for i, c in enumerate(CATEGORIES) if c.frequency == "f"]
    for content in shown:
        if not content:
            content.append(int(rng.choice(frequent)))
    return shown


def _negatives(present: list[int], rng: np.random.Generator) -> list[int]:
    """Some categories of which the image has no object, look-alikes of what it shows above all."""
    names = [c.name for c in CATEGORIES]
    absent = [c for c in range(len(CATEGORIES)) if c not in present]
    alike = {names.index(LOOK_ALIKE[names[c]]) for c in present if names[c] in LOOK_ALIKE}
    chosen = {c for c in absent if c in alike and rng.random() < TWIN_NEGATIVE}
    others = rng.permutation([c for c in absent if c not in chosen])
    wanted = int(rng.integers(*NEGATIVES, endpoint=True))
    chosen.update(int(c) for c in others[: max(wanted - len(chosen), 0)])
    return sorted(chosen)


# --- images and their annotations ------------------------------------------------------------------------------------


def _make_split(split: str, images: int, seed: int, paths: MiniPaths) -> dict[str, Any]:
    """Write the images of a split. Returns its LVIS JSON, categories aside."""
    subfolder = f"{split}2017"
    (paths.images / subfolder).mkdir(parents=True)
    first_id = 1 if split == "train" else 100_001
    image_records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, present in enumerate(_plan(split, images, seed)):
        rng = generator(seed, f"mini/{split}", index)
        image_id = first_id + index
        unfinished = _not_exhaustive(split, present, rng)
        image, objects = _render_image(present, unfinished, rng)
        file_name = f"{image_id:012d}.png"
        # Noise hardly compresses, and decoding takes three times as long if it is.
        write_png(paths.images / subfolder / file_name, image[..., ::-1], compression=0)
        image_records.append(
            {
                "id": image_id,
                "width": image.shape[1],
                "height": image.shape[0],
                "coco_url": f"http://images.cocodataset.org/{subfolder}/{file_name}",
                "neg_category_ids": [c + 1 for c in _negatives(present, rng)],
                "not_exhaustive_category_ids": [c + 1 for c in unfinished],
            }
        )
        for category, mask in objects:
            annotations.append(_annotation(first_id + len(annotations), image_id, category, mask))
    info = {"description": "Embedded miniature of LVIS", "version": f"mini-v{VERSION}", "year": 2024}
    return {
        "info": info,
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": image_records,
        "annotations": annotations,
    }


def _not_exhaustive(split: str, present: list[int], rng: np.random.Generator) -> list[int]:
    """The category of the image whose objects are not all annotated; rare ones in training are too few for it."""
    eligible = [c for c in present if split == "val" or CATEGORIES[c].frequency != "r"]
    return [int(rng.choice(eligible))] if eligible and rng.random() < NOT_EXHAUSTIVE else []


Mask = NDArray[np.bool_]


def _render_image(
    present: list[int], unfinished: list[int], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[tuple[int, Mask]]]:
    """The image (h, w, 3) uint8 RGB and, per annotated object, its category and visible pixels (h, w)."""
    height, width = (int(side) for side in rng.choice(IMAGE_SIDES, 2))
    canvas = render_background(rng, height, width)
    # A category that is not exhaustively annotated shows two further objects at times, and once in a while none.
    hidden = [c for c in unfinished for _ in range(int(rng.integers(0, 3)))]
    objects = [c for c in present for _ in range(1 + int(rng.random() < EXTRA_INSTANCE))]
    todo = [(c, True) for c in objects] + [(c, False) for c in hidden]
    direction = float(rng.uniform(0, 2 * np.pi))
    placed: list[tuple[int, bool, int, Mask]] = []
    for i in rng.permutation(len(todo)):
        category, annotated = todo[i]
        found = _find_place(CATEGORIES[category].look, direction, (height, width), [p[2:] for p in placed], rng)
        if found is None:
            continue
        cutout, x, y = found
        composite(canvas, cutout, x, y)
        covered = footprint(cutout, x, y, (height, width))
        placed = [(c, a, full, mask & ~covered) for c, a, full, mask in placed]
        placed.append((category, annotated, int(covered.sum()), covered))
    return finish_photograph(canvas, rng), [(c, mask) for c, annotated, _, mask in placed if annotated]


def _find_place(
    look: Look,
    direction: float,
    size: tuple[int, int],
    earlier: list[tuple[int, Mask]],
    rng: np.random.Generator,
) -> tuple[Cutout, int, int] | None:
    """An object and the corner where it goes without hiding too much of the earlier ones; None when it is too full."""
    extent = float(np.exp(rng.uniform(*np.log(OBJECT_EXTENT))))
    height, width = size
    for _ in range(5):
        cutout = render_object(look, draw_pose(rng, extent), real_light(rng, direction), rng)
        h, w = cutout.alpha.shape
        whole = int((cutout.alpha >= 0.5).sum())
        for _ in range(8):
            x = int(rng.integers(-w // 4, max(width - 3 * w // 4, 1)))
            y = int(rng.integers(-h // 4, max(height - 3 * h // 4, 1)))
            covered = footprint(cutout, x, y, size)
            fits = covered.sum() >= max(MIN_VISIBLE_PIXELS, 0.65 * whole)
            if fits and all(_stays_visible(full, mask, covered) for full, mask in earlier):
                return cutout, x, y
        extent = max(extent * 0.75, OBJECT_EXTENT[0])
    return None


def _stays_visible(full: int, mask: Mask, covered: Mask) -> bool:
    """Whether enough of an object remains; without holes, which polygons cannot say."""
    if not (mask & covered).any():
        return True
    rest = mask & ~covered
    if rest.sum() < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * full):
        return False
    _, hierarchy = cv2.findContours(rest.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return bool((hierarchy[0, :, 3] < 0).all())


def mask_to_polygons(mask: Mask) -> list[list[float]]:
    """Outer outlines of a (h, w) mask along its pixels' edges, as LVIS polygons [x0, y0, x1, y1, ...].

    OpenCV joins pixel centres, which loses half a pixel all around; at four times the size, rounding gives the edges,
    and pycocotools makes the very same mask from them when it has no holes.
    """
    zoom = 4
    large = cv2.resize(mask.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        corners = np.round((contour[:, 0] + 0.5) / zoom)
        corners = corners[(corners != np.roll(corners, 1, 0)).any(1)]
        polygons.append(corners.ravel().tolist())
    return polygons


def _annotation(annotation_id: int, image_id: int, category: int, mask: Mask) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = float(columns[0]), float(rows[0])
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category + 1,
        "bbox": [x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y],
        "area": float(mask.sum()),
        "segmentation": mask_to_polygons(mask),
    }


def _category_records(train_annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    records = []
    for index, category in enumerate(CATEGORIES):
        own = [a["image_id"] for a in train_annotations if a["category_id"] == index + 1]
        texture, colour, shape = category.name.split("_")
        records.append(
            {
                "id": index + 1,
                "name": category.name,
                "synset": f"{category.name}.n.01",
                "synonyms": [category.name],
                "def": f"a {colour} {shape} with a {texture} surface",
                "frequency": category.frequency,
                "image_count": len(set(own)),
                "instance_count": len(own),
            }
        )
    return records
