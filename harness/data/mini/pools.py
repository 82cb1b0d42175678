"""The embedded dataset's pools: generated cut-outs with a domain gap, of which a known share is bad.

All pools index one set of instance files. A pool's instances are nested by their share of bad ones: the bad ones of
`bad20` are among those of `bad40`, the clean ones of `bad40` among those of `bad20`. `confused` is different: most of a
category's instances show its look-alike, which is what generators make of fine-grained categories. Every pool with bad
instances has an oracle, its clean instances alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from harness.data.mini.render import (
    Cutout,
    Look,
    composite,
    draw_pose,
    fill,
    pool_light,
    random_blob,
    render_object,
    smooth_field,
    stylise,
    write_png,
)
from harness.data.paste.cutout import isolate
from harness.data.seeding import generator as make_generator

SHARES = {"clean": 0.0, "bad20": 0.2, "bad40": 0.4, "half_bad": 0.5, "bad60": 0.6, "bad80": 0.8}
CONFUSED = 0.75  # share of a category's instances in `confused` that show its look-alike
WITH_ORACLE = ("confused", *(name for name, share in SHARES.items() if share))
POOLS = (*SHARES, "confused", *(f"{name}_oracle" for name in WITH_ORACLE), "extra")
KINDS = ("clean", "wrong_label", "broken_mask", "off_distribution")
GENERATORS = ("soft", "toon")
PROMPTS = (
    "a photo of a {name}",
    "a {name} in glaring light",
    "a tilted {name}",
    "an old, faded {name}",
)
CANVAS = 96  # pixels a side
COVERAGE = (0.15, 0.4)  # of the canvas
MAX_EXTENT = 68.0
# What a CLIP score tells of quality is little: mean by kind, one standard deviation for all.
CLIP_MEAN = {"clean": 27.0, "wrong_label": 25.6, "broken_mask": 26.4, "off_distribution": 23.8}
CLIP_DEVIATION = 2.4
TWIN_MISLABELLED = 0.5  # share of wrong labels that a look-alike's instances get, where there is a look-alike

# Of no category of the dataset; they show how a pool extends the label space.
EXTRA_CATEGORIES = {
    "striped_yellow_bolt": Look("bolt", "striped", 55, "dark"),
    "halved_green_leaf": Look("leaf", "halved", 110, "dark"),
    "dotted_gold_crown": Look("crown", "dotted", 42, "dark"),
    "checked_teal_tee": Look("tee", "checked", 170),
}


class Named(Protocol):
    """A category as this module needs it."""

    @property
    def name(self) -> str: ...
    @property
    def look(self) -> Look: ...


class Layout(Protocol):
    """The folder's paths as this module needs them."""

    def pool(self, name: str) -> Path: ...
    def columns(self, name: str) -> Path: ...
    def truth(self, name: str) -> Path: ...


@dataclass(frozen=True)
class Instance:
    """One file of the pool. `category` is what it is filed under, `true_category` what it shows (-1: nothing)."""

    category: int
    path: str
    kind: str
    true_category: int
    generator: str
    prompt_id: int
    prompt: str
    clip_score: float
    area_fraction: float


def write_pools(
    paths: Layout, categories: Sequence[Named], look_alike: Mapping[str, str], instances: int, seed: int
) -> None:
    """Write the instance files and every pool of POOLS, `instances` per category."""
    worst = max(_bad_count(share, instances) for share in SHARES.values())
    looks = [(c.name, c.look) for c in categories] + list(EXTRA_CATEGORIES.items())
    names = [name for name, _ in looks]
    folder = paths.pool("clean").parent
    clean: list[list[Instance]] = []
    bad: list[list[Instance]] = []
    for index, (name, _) in enumerate(looks):
        (folder / "instances" / name).mkdir(parents=True)
        known = index < len(categories)
        kinds = ["clean"] * instances + [KINDS[1 + i % 3] for i in range(worst if known else 0)]
        alike = names.index(look_alike[name]) if name in look_alike else None
        # File numbers are shuffled, so that a name says nothing of quality.
        numbers = make_generator(seed, "mini/pool/names", index).permutation(len(kinds))
        made = [
            _make_instance(folder, looks, index, kind, int(number), len(categories), alike, seed)
            for kind, number in zip(kinds, numbers, strict=True)
        ]
        clean.append(made[:instances])
        bad.append(made[instances:])
    for pool, share in SHARES.items():
        count = _bad_count(share, instances)
        rows = [i for c in range(len(categories)) for i in clean[c][: instances - count] + bad[c][:count]]
        _write_with_oracle(paths, pool, rows)
    twins = [names.index(look_alike[name]) if name in look_alike else None for name in names[: len(categories)]]
    _write_with_oracle(paths, "confused", _confused(folder, names, clean[: len(categories)], twins, seed))
    _write_pool(paths, "extra", [i for rows in clean for i in rows])


def _confused(
    folder: Path, names: Sequence[str], clean: list[list[Instance]], twins: list[int | None], seed: int
) -> list[Instance]:
    """Of each category some clean instances, the others clean ones of its look-alike, or of any category where it has
    none. They are copies below names of their own: a path must not tell what an instance shows."""
    made = []
    for category, own in enumerate(clean):
        rng = make_generator(seed, "mini/pool/confused", category)
        wrong = min(_bad_count(CONFUSED, len(own)), len(own) - 1)
        right = len(own) - wrong
        others = [c for c in range(len(clean)) if c != category]
        twin = twins[category]
        # The twin's own share of the pool is left out, so that no picture is there as both.
        shown = [
            clean[int(rng.choice(others)) if twin is None else twin][right + place]
            for place in (rng.permutation(wrong) if wrong else [])
        ]
        numbers = rng.permutation(len(own))
        (folder / "instances" / "confused" / names[category]).mkdir(parents=True)
        for number, each in zip(numbers, [*own[:right], *shown], strict=True):
            path = f"instances/confused/{names[category]}/{int(number):04d}.png"
            shutil.copyfile(folder / each.path, folder / path)
            row = replace(each, category=category, path=path)
            if each.category != category:
                score = round(float(rng.normal(CLIP_MEAN["wrong_label"], CLIP_DEVIATION)), 3)
                prompt = PROMPTS[each.prompt_id].format(name=names[category])
                row = replace(row, kind="wrong_label", prompt=prompt, clip_score=score)
            made.append(row)
    return made


def _bad_count(share: float, instances: int) -> int:
    return round(share * instances)


def _write_with_oracle(paths: Layout, name: str, rows: list[Instance]) -> None:
    _write_pool(paths, name, rows)
    if name in WITH_ORACLE:
        _write_pool(paths, f"{name}_oracle", [row for row in rows if row.kind == "clean"])


def _write_pool(paths: Layout, name: str, rows: list[Instance]) -> None:
    rows = sorted(rows, key=lambda row: (row.category, row.path))
    listing: dict[str, list[str]] = {}
    for row in rows:
        listing.setdefault(str(row.category), []).append(row.path)
    paths.pool(name).write_text(json.dumps(listing, separators=(",", ":")))

    def table(*columns: str) -> pa.Table:
        return pa.table({column: [getattr(row, column) for row in rows] for column in columns})

    columns = table("category", "path", "generator", "prompt_id", "prompt", "clip_score", "area_fraction")
    pa_csv.write_csv(columns, str(paths.columns(name)))
    paths.truth(name).parent.mkdir(exist_ok=True)
    pa_parquet.write_table(table("category", "path", "kind", "true_category"), str(paths.truth(name)))


# --- one instance ----------------------------------------------------------------------------------------------------


def _make_instance(
    folder: Path,
    looks: Sequence[tuple[str, Look]],
    category: int,
    kind: str,
    number: int,
    known: int,
    alike: int | None,
    seed: int,
) -> Instance:
    """Draw, render and write one instance; the first `known` of `looks` are the dataset's own categories."""
    name = looks[category][0]
    rng = make_generator(seed, f"mini/pool/{name}", number)
    style, prompt_id = str(rng.choice(GENERATORS)), int(rng.integers(len(PROMPTS)))
    mistaken_for = _mistake(category, known, alike, rng)  # drawn for every kind, so that all draw alike from here on
    true_category = {"wrong_label": mistaken_for, "off_distribution": -1}.get(kind, category)
    look = looks[true_category][1] if true_category >= 0 else None
    path = f"instances/{name}/{number:04d}.png"
    rgba = _render_instance(look, style, prompt_id, kind == "broken_mask", rng)
    write_png(folder / path, cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), compression=2)
    score = round(float(rng.normal(CLIP_MEAN[kind], CLIP_DEVIATION)), 3)
    area = round(isolate(rgba, path)[1], 4)
    prompt = PROMPTS[prompt_id].format(name=name)
    return Instance(category, path, kind, true_category, style, prompt_id, prompt, score, area)


def _mistake(category: int, known: int, alike: int | None, rng: np.random.Generator) -> int:
    if alike is not None and rng.random() < TWIN_MISLABELLED:
        return alike
    other = int(rng.integers(known - 1))
    return other + (other >= category)


def _render_instance(
    look: Look | None, style: str, prompt_id: int, broken: bool, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """(CANVAS, CANVAS, 4) uint8 RGBA; `look` None gives an object of no category. No colour where alpha is 0."""
    coverage = float(rng.uniform(*COVERAGE))
    if look is None:
        cutout = random_blob(rng, float(rng.uniform(50, MAX_EXTENT)))
    else:
        extent = min(float(np.sqrt(coverage / fill(look.shape))) * CANVAS, MAX_EXTENT)
        light = pool_light(rng, style, bright=prompt_id == 1, faded=prompt_id == 3)
        cutout = render_object(look, draw_pose(rng, extent, turn=0.9 if prompt_id == 2 else 0.35), light, rng)
    cutout = stylise(cutout, style, rng)
    h, w = cutout.alpha.shape
    x = (CANVAS - w) // 2 + int(rng.integers(-4, 5))
    y = (CANVAS - h) // 2 + int(rng.integers(-4, 5))
    canvas = smooth_field(rng, CANVAS, CANVAS, 3, 0.2, 0.9)
    composite(canvas, Cutout(cutout.color, (cutout.alpha > 0).astype(np.float32)), x, y)
    alpha_canvas = np.zeros((CANVAS, CANVAS, 3), np.float32)
    composite(alpha_canvas, Cutout(np.ones_like(cutout.color), cutout.alpha), x, y)
    alpha = np.round(alpha_canvas[..., 0] * 255).astype(np.uint8)
    if broken:
        alpha = _break_mask(alpha, rng)
    rgb = np.round(canvas * 255).astype(np.uint8)
    rgb[alpha == 0] = 0
    return np.dstack([rgb, alpha])


def _break_mask(alpha: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A segmentation gone wrong: half of the object, far too much around it, or beside it."""
    rows, columns = np.flatnonzero(alpha.max(1) > 0), np.flatnonzero(alpha.max(0) > 0)
    middle = np.array([columns.mean(), rows.mean()])
    size = max(np.ptp(rows), np.ptp(columns))
    angle = float(rng.uniform(0, 2 * np.pi))
    toward = np.array([np.cos(angle), np.sin(angle)])
    fault = int(rng.integers(3))
    if fault == 0:
        x, y = np.meshgrid(np.arange(CANVAS), np.arange(CANVAS))
        beyond = (x - middle[0]) * toward[0] + (y - middle[1]) * toward[1] > 0
        return np.where(beyond, 0, alpha).astype(np.uint8)
    if fault == 1:
        reach = int(rng.integers(19, 29))
        return cv2.dilate(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))).astype(np.uint8)
    shift = toward * size * float(rng.uniform(0.3, 0.5))
    move = np.array([[1, 0, round(shift[0])], [0, 1, round(shift[1])]], np.float32)
    return cv2.warpAffine(alpha, move, (CANVAS, CANVAS)).astype(np.uint8)
