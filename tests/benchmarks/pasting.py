"""Pasting against full-canvas pasting: time with decoding and without, and equal targets, in one run.

    python -m tests.benchmarks.pasting [--images 20] [--sides 640 896]

Each image has 12 instances of its own and gets 10 pasted ones, from 512² RGBA PNG files of about the size of a
generated photograph. The other side is written from the design's description of X-Paste as published: files are decoded
with Pillow, every instance is warped over the whole canvas with its mask, every mask is updated and every box
recomputed over the whole canvas, masks being NumPy's default integers; `8-bit` is the same with masks of one byte,
which the published code does not do. All sides make the same draws, so their targets are compared one by one. One
thread, milliseconds of CPU time an image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from harness.config import DataConfig
from harness.data.paste.area_statistics import AreaStatistics
from harness.data.paste.cutout import read_rgba
from harness.data.paste.paster import Paster
from harness.data.pool.pool import InstancePool, ListStore
from harness.data.pool.sources import FileSource
from harness.data.targets import Instance, tightened, to_targets
from methods.contract import Draw

FILES, PASTED, OWN = 40, 10, 12
SIDE = 512
QUANTILES = (10, 50, 90)
HEADER = "{:>6}{:>8}{:>10}{:>13}{:>10}{:>8}"
RATIOS = "{:>8}{:>7}{:>18}{:>7}"


@dataclass
class Scene:
    """A view, its own masks (n, H, W) uint8, and what to paste: pool rows, each of a category of its own."""

    image: np.ndarray
    masks: np.ndarray
    rows: np.ndarray
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--sides", type=int, nargs="+", default=[640, 896])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        sources = [write_instance(Path(folder) / f"{i}.png", rng) for i in range(FILES)]
        mean = rng.lognormal(np.log(0.15), 0.6, FILES)  # as LVIS categories: half of them between 0.09 and 0.2
        areas = AreaStatistics(mean, 0.7 * mean)
        pool = InstancePool(ListStore(sources, np.arange(FILES)))
        megabytes = sum(Path(s.path).stat().st_size for s in sources) / len(sources) / 1e6
        print(f"{PASTED} instances of {SIDE}² RGBA PNG ({megabytes:.2f} MB each), {arguments.images} images")
        print(HEADER.format("view", "ours", "decoding", "full canvas", "decoding", "8-bit"), end="")
        print(RATIOS.format("ratio", "8-bit", "without decoding", "8-bit"))
        for side in arguments.sides:
            scenes = [make_scene(side, rng) for _ in range(arguments.images)]
            compare(side, scenes, pool, areas)


def write_instance(path: Path, rng: np.random.Generator) -> FileSource:
    """A photograph-like texture with one soft-edged blob of 10 to 60 % of the image, and specks beside it."""
    layers = [cv2.resize(rng.normal(0, 90 / k, (k * 4, k * 4, 3)), (SIDE, SIDE)) for k in (1, 4, 16)]
    rgb = np.clip(sum(layers) + 128 + rng.normal(0, 3, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    axes = rng.integers(90, 240, 2).tolist()
    cv2.ellipse(alpha, (SIDE // 2, SIDE // 2), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    for x, y in rng.integers(0, SIDE, (4, 2)).tolist():
        cv2.circle(alpha, (x, y), 5, 255, -1)
    Image.fromarray(np.dstack([rgb, cv2.GaussianBlur(alpha, (7, 7), 0)])).save(path)
    return FileSource(str(path))


def make_scene(side: int, rng: np.random.Generator) -> Scene:
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    masks = np.zeros((OWN, side, side), np.uint8)
    for mask in masks:
        centre, axes = rng.integers(0, side, 2).tolist(), rng.integers(8, side // 5, 2).tolist()
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return Scene(image, masks, rng.integers(0, FILES, PASTED), int(rng.integers(2**31)))


def compare(side: int, scenes: list[Scene], pool: InstancePool, areas: AreaStatistics) -> None:
    paster = Paster(pool, None, areas, DataConfig(name="", root=""))  # type: ignore[arg-type]
    seconds = np.zeros(5)
    ours, theirs, same = [], [], 0
    for scene in scenes:
        instances = [found for mask in scene.masks if (found := tightened(Instance(mask, 0, 0, -1)))]
        draw = Draw(rows=scene.rows, categories=scene.rows)
        files = [pool.source(row) for row in scene.rows.tolist()]
        marks = [time.process_time()]
        for file in files:
            read_rgba(file)  # type: ignore[arg-type]
        marks.append(time.process_time())
        for file in files:
            pillow_rgba(file)  # type: ignore[arg-type]
        marks.append(time.process_time())
        image, shown, _ = paster.paste(scene.image, instances, draw, np.random.default_rng(scene.seed))
        targets = to_targets(shown, (side, side))
        marks.append(time.process_time())
        other, boxes, masks = full_canvas(scene, pool, areas, np.int64)
        marks.append(time.process_time())
        full_canvas(scene, pool, areas, np.uint8)
        marks.append(time.process_time())
        seconds += np.diff(marks)
        own, full = targets.boxes.numpy(), targets.masks.full().numpy()
        same += np.array_equal(own, boxes) and np.array_equal(full, masks) and np.array_equal(image, other)
        ours.append(describe(own, full.sum((1, 2))))
        theirs.append(describe(boxes, masks.sum((1, 2))))
    decode, pillow, mine, published, lean = (1000 * seconds / len(scenes)).tolist()
    figures = f"{mine:.1f}", f"{decode / mine:.0%}", f"{published:.1f}", f"{pillow / published:.0%}", f"{lean:.1f}"
    bare = [(other - pillow) / (mine - decode) for other in (published, lean)]
    ratios = [f"{ratio:.1f}" for ratio in (published / mine, lean / mine, *bare)]
    print(HEADER.format(f"{side}²", *figures) + RATIOS.format(*ratios))
    print(f"  image, boxes and masks are equal in {same} of {len(scenes)} images")
    for name, values in (("ours", ours), ("full canvas", theirs)):
        print(f"  {name:<12} " + statistics(np.concatenate(values)))


def describe(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(n, 3): width, height and area of every target."""
    return np.column_stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1], areas])


def statistics(values: np.ndarray) -> str:
    parts = []
    for column, name in enumerate(("width", "height", "area")):
        quantiles = "/".join(f"{value:.0f}" for value in np.percentile(values[:, column], QUANTILES))
        parts.append(f"{name} {quantiles}")
    return f"{len(values)} targets; 10/50/90 % quantiles: " + ", ".join(parts)


def full_canvas(
    scene: Scene, pool: InstancePool, areas: AreaStatistics, integers: type[np.integer]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, boxes (n, 4) and masks (n, H, W) by warping and masking over the whole canvas."""
    rng = np.random.default_rng(scene.seed)
    image, masks = scene.image, scene.masks
    boxes = canvas_boxes(masks)
    for row in scene.rows.tolist():
        placed = sized(pillow_rgba(pool.source(row)), image.shape[:2], areas, row, rng)  # type: ignore[arg-type]
        if placed is None:
            continue
        rgba, x, y = placed
        height, width = image.shape[:2]
        move = np.array([[1, 0, x], [0, 1, y]], np.float32)
        canvas = cv2.warpAffine(rgba, move, (width, height))
        cover = cv2.warpAffine((rgba[..., 3] > 0).astype(np.uint8), move, (width, height)).astype(integers)
        masks = np.where(cover, integers(0), masks)
        moved = canvas_boxes(masks)
        stays = (np.abs(moved - boxes) <= 10).all(1) | (masks.sum((1, 2)) > 300)
        stays &= masks.any((1, 2))
        image = (image * (1 - cover[..., None]) + canvas[..., :3] * cover[..., None]).astype(np.uint8)
        masks = np.concatenate([masks[stays], cover[None]])
        boxes = np.concatenate([moved[stays], canvas_boxes(cover[None])])
    return image, boxes, masks


def pillow_rgba(source: FileSource) -> np.ndarray:
    with Image.open(source.path) as image:
        return np.array(image.convert("RGBA"))


def sized(
    rgba: np.ndarray, view: tuple[int, ...], areas: AreaStatistics, category: int, rng: np.random.Generator
) -> tuple[np.ndarray, int, int] | None:
    """An instance cut out, scaled and flipped, and its corner."""
    opaque = (rgba[..., 3] > 128).astype(np.uint8)
    outlines, _ = cv2.findContours(opaque, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(outlines, key=cv2.contourArea)
    inside = cv2.fillPoly(np.zeros_like(opaque), [largest], 1)
    ys, xs = np.nonzero(inside)
    cut = rgba.copy()
    cut[..., 3] *= inside
    cut = cut[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    height, width = view
    share = np.clip(areas.mean[category] + rng.standard_normal() * areas.std[category], 10 / height, 0.5)
    aspect = cut.shape[1] / cut.shape[0] * rng.uniform(0.8, 1.2)
    exact = np.sqrt(aspect * share**2 * height * width)
    w, h = int(exact), int(exact / aspect)
    if w < 5 or h < 5 or w >= width or h >= height:
        return None
    cut = cv2.resize(cut, (w, h))
    if rng.random() < 0.5:
        cut = cut[:, ::-1].copy()
    x = int(rng.integers(int(-w / 2), int(width - w / 2)))
    y = int(rng.integers(int(-h / 2), int(height - h / 2)))
    return cut, x, y


def canvas_boxes(masks: np.ndarray) -> np.ndarray:
    """(n, 4) float32 tight boxes of masks (n, H, W); zeros for an empty one."""
    boxes = np.zeros((len(masks), 4), np.float32)
    columns, rows = masks.any(1), masks.any(2)
    for i in range(len(masks)):
        xs, ys = np.flatnonzero(columns[i]), np.flatnonzero(rows[i])
        if len(xs):
            boxes[i] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return boxes


if __name__ == "__main__":
    main()
