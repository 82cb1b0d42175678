"""Made-up records with the papers' shape, for tests of the reports, their benchmark and their pictures.

The figures come from a seeded generator; they look like results and are none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.record.gallery import write_gallery
from harness.record.manifest import ExpectedRun, Manifest, write_manifest
from harness.record.matches import FAULTS, read_matches
from harness.record.matches import write_matches as write_match_files
from harness.record.record import Record, Status, write_record
from tests.reports.resampling import resampled_ap

METRICS = {
    "AP": 0.0,
    "AP50": 14.0,
    "AP75": 1.0,
    "APs": -12.0,
    "APm": 4.0,
    "APl": 14.0,
    "APr": -8.0,
    "APc": -1.0,
    "APf": 3.0,
}
GAIN = {
    "baseline": 0.0,
    "baseline_continued": 0.6,
    "copy_paste": 1.8,
    "xpaste": 3.2,
    "xpaste_copypaste": 3.9,
    "divergen": 3.6,
    "random_selection": 3.1,
    "bsgal": 4.3,
    "oracle": 7.0,
}
STEP = {"bsgal": 1.68, "random_selection": 1.06, "baseline": 0.93, "baseline_continued": 0.94}
SELECTING = ("bsgal", "random_selection")
PACKAGES = {"torch": "2.11.0", "torchvision": "0.26.0", "timm": "1.0.31", "numpy": "2.4.6", "hydra-core": "1.3.8"}


def record(
    name: str,
    seed: int = 0,
    metrics: dict[str, dict[str, float | None]] | None = None,
    settings: dict[str, Any] | None = None,
    status: Status = Status.complete,
    **fields: Any,
) -> Record:
    """A record with what reports look at."""
    known = {
        "name": name,
        "method": "copy_paste" if name == "xpaste_copypaste" else name,
        "seed": seed,
        "data.name": "mini",
        "backbone": "resnet18",
        **(settings or {}),
    }
    parts = [name, *(str(v) for k, v in (settings or {}).items() if k != "method"), f"s{seed}"]
    run_id = fields.pop("run_id", "-".join(parts).replace("/", "_"))
    provenance = {"code": "c0de" * 16, "commit": "1f2e3d4c5b6a", "dirty_diff": None, "packages": PACKAGES}
    provenance["method"] = {"about": f"Made up: {name}.", "source": "nowhere", "options": {"tau": "0.0"}}
    provenance["hardware"] = {"cpu": "a processor", "gpu": None, "host": "node-1"}
    fields.setdefault("ended", 1_800_000_000.0 + seed)
    fields.setdefault("provenance", provenance)
    return Record(run_id, name, status, known, metrics or {}, **fields)


def results(rng: np.random.Generator, level: float, gain: float) -> dict[str, dict[str, float | None]]:
    """Box and mask figures of a detector at `level` AP with `gain` by its method, twice that for rare categories."""
    shift = rng.normal(0, 0.5)
    found = {}
    for iou, below in (("bbox", 0.0), ("segm", 3.9)):
        found[iou] = {
            metric: float(level + offset - below + gain * (2.1 if metric == "APr" else 1) + shift + rng.normal(0, 0.5))
            for metric, offset in METRICS.items()
        }
    return found


def write_categories(
    folder: Path, rng: np.random.Generator, metrics: dict[str, dict[str, float | None]], count: int
) -> None:
    """per_category.parquet: `count` categories, a third each rare, common and frequent, around the group's AP."""
    frequency = np.repeat(["r", "c", "f"], -(-count // 3))[:count]
    place = np.random.default_rng(7).normal(0, 9, count)  # a category is as hard for every run
    tables = []
    for iou in ("bbox", "segm"):
        centre = np.array([metrics[iou][f"AP{letter}"] or 0.0 for letter in frequency])
        ap = np.clip((centre + place + rng.normal(0, 2.5, count)) / 100, 0, 1)
        ids = np.arange(1, count + 1)
        names = [f"category_with_a_remarkably_long_name_{i}" for i in ids]
        tables.append(
            pa.table(
                {
                    "iou_type": [iou] * count,
                    "category_id": ids,
                    "name": names,
                    "frequency": frequency,
                    "instances": np.full(count, 10),
                    "images": np.full(count, 7),
                    "AP": ap,
                }
            )
        )
    pq.write_table(pa.concat_tables(tables), folder / "per_category.parquet")


def write_matches(folder: Path, rng: np.random.Generator, gain: float, images: int = 120, count: int = 24) -> None:
    """matches.parquet and ground_truth.parquet: two instances an image, categories in turn, each with one detection
    that may fit and three that do not; a method's `gain` (percent) is twice as large for rare categories."""
    frequency = np.repeat(["r", "c", "f"], -(-count // 3))[:count]
    image = np.repeat(np.arange(images), 2)
    category = (np.arange(2 * images) % count).astype(np.int32)
    group = frequency[category]
    detections = {}
    for iou, below in (("bbox", 0.0), ("segm", 0.03)):
        found = np.repeat(np.arange(2 * images), 4)
        best = np.tile([True, False, False, False], 2 * images)
        quality = np.where(group == "r", 0.77 + 0.008 * gain, np.where(group == "c", 0.84, 0.88) + 0.004 * gain) - below
        overlap = np.where(best, np.clip(rng.normal(quality[found], 0.22), 0, 1), 0)
        bits = (overlap[:, None] >= np.arange(0.5, 1, 0.05)) @ (1 << np.arange(10))
        score = np.where(best, 0.6, 0.3) + rng.normal(0, 0.2, len(found))
        order = np.lexsort((-score, category[found]))
        kinds = [FAULTS.index(name) for name in ("class", "both", "duplicate", "background")]
        others = np.random.default_rng(11).choice(kinds, len(found))
        fault = np.where(overlap >= 0.5, 0, np.where(overlap >= 0.1, FAULTS.index("localisation"), others))
        of = np.where(fault == FAULTS.index("class"), found ^ 1, found)  # the image's other instance
        of[fault > FAULTS.index("localisation")] = -1
        detections[iou] = {
            "image": image[found][order].astype(np.int32),
            "category": category[found][order],
            "score": score[order],
            "matched": bits[order].astype(np.uint16),
            "ignored": np.zeros(len(found), np.uint16),
            "fault": fault[order].astype(np.uint8),
            "truth": of[order].astype(np.int32),
        }
    truth = {"image": image.astype(np.int32), "category": category, "instances": np.ones(2 * images, np.int32)}
    write_match_files(folder, detections, truth | {"frequency": group}, images, count)


def matched_figures(folder: Path) -> dict[str, dict[str, float | None]]:
    """AP, APr, APc, APf of what `write_matches` wrote."""
    found: dict[str, dict[str, float | None]] = {}
    for iou in ("bbox", "segm"):
        matches = read_matches(folder, iou)
        assert matches is not None
        ap = resampled_ap(matches, np.ones((1, matches.images), np.int64))[0]
        found[iou] = dict(zip(("AP", "APr", "APc", "APf"), (100 * ap).tolist(), strict=True))
    return found


def write_decisions(folder: Path, rng: np.random.Generator, contributes: bool, steps: int, rate: float = 0.55) -> None:
    """decisions.parquet: eight images a step, a contribution that knows a little of the truth and falls in training."""
    iteration = np.repeat(np.arange(1, steps + 1), 8)
    count = len(iteration)
    instances = rng.integers(1, 6, count)
    clean = np.array([rng.binomial(n, 0.5) for n in instances]) / instances
    contribution = 0.12 * np.exp(-iteration / steps) + 0.1 * (clean - 0.5) + rng.normal(0, 0.08, count)
    accepted = contribution >= 0.06 if contributes else rng.random(count) < rate
    table = pa.table(
        {
            "iteration": iteration,
            "rank": np.zeros(count, np.int32),
            "image": np.tile(np.arange(8), steps),
            "pool_rows": [list(range(n)) for n in instances],
            "categories": [[0] * n for n in instances],
            "contribution": pa.array(contribution if contributes else [None] * count, pa.float64()),
            "threshold": pa.array([0.06 if contributes else None] * count, pa.float64()),
            "accepted": accepted,
            "decided": np.ones(count, bool),
            "clean_share": clean,
        }
    )
    pq.write_table(table, folder / "decisions.parquet")


def write_pictures(folder: Path, rng: np.random.Generator, judges: bool) -> None:
    """gallery/: two pictures with a truth and a detection each, and two instances of each verdict."""
    content: dict[str, Any] = {"images": [], "instances": []}
    pictures = {}
    for image in (1, 2):
        pixels = np.random.default_rng(image).integers(90, 160, (60, 80, 3), np.uint8)
        pictures[f"{image}.jpg"] = cv2.imencode(".jpg", pixels)[1].tobytes()
        x, y = rng.integers(5, 30, 2).tolist()
        found = {"category": "category 1", "score": 0.9, "outline": [[x, y, x + 30, y, x + 30, y + 25, x, y + 25]]}
        truth = {"category": "category 1", "outline": [[10, 10, 40, 10, 40, 35, 10, 35]]}
        entry = {"file": f"{image}.jpg", "width": 80, "height": 60, "truth": [truth], "found": [found]}
        content["images"].append(entry)
    for row in range(4 if judges else 0):
        pixels = rng.integers(0, 255, (40, 40, 4), np.uint8)
        pictures[f"pool-{row}.png"] = cv2.imencode(".png", pixels)[1].tobytes()
        verdict = {"accepted": row < 2, "contribution": 0.1 - 0.05 * row, "clean": row % 2 == 0}
        content["instances"].append({"file": f"pool-{row}.png", "category": "category 1", **verdict})
    write_gallery(folder, content, pictures)


def write_metrics(folder: Path, rng: np.random.Generator, steps: int) -> None:
    """metrics.jsonl: a loss that falls, every ten steps; learning_curve.json: AP at three of them."""
    lines = [
        {"iteration": i, "total": steps, "loss": 1 + 3 * np.exp(-2 * i / steps) + rng.normal(0, 0.1)}
        for i in range(10, steps + 1, 10)
    ]
    points = [{"iteration": i, **{iou: {"AP": 10.0 + i / 10} for iou in ("bbox", "segm")}} for i in (50, 100, 150)]
    (folder / "learning_curve.json").write_text(json.dumps(points))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(runs: Path, made: Record, rng: np.random.Generator, categories: int = 0, steps: int = 0) -> None:
    """The record and, where asked for, the files beside it."""
    write_record(runs, made)
    folder = runs / made.run_id
    if categories:
        write_categories(folder, rng, made.metrics, categories)
    if steps and made.settings["method"] in SELECTING:
        write_decisions(folder, rng, made.settings["method"] == "bsgal", steps)


def cost(method: str, rng: np.random.Generator, iterations: int, seconds: float) -> dict[str, float]:
    train = iterations * seconds * STEP.get(method, 1.0) * float(rng.normal(1, 0.015))
    return {
        "train_seconds": train,
        "wall_seconds": train * 1.08,
        "iterations": float(iterations),
        "steps_per_second": iterations / train,
    }


def write_sweep(runs: Path, name: str, made: list[Record], report: str | None = None) -> None:
    """A manifest that expects these runs."""
    expected = [
        ExpectedRun(
            r.run_id, r.name, [f"{k}={v}" for k, v in r.settings.items()], {k: str(v) for k, v in r.settings.items()}
        )
        for r in made
    ]
    write_manifest(runs, Manifest(name, "made up", report or name, expected))


def write_mini(runs: Path) -> None:
    """The mini sweep: seven rows, two seeds, all complete."""
    rng = np.random.default_rng(1)
    made = []
    for method, gain in {**GAIN, "confidence": 5.5}.items():
        if method in ("copy_paste", "xpaste_copypaste", "divergen"):
            continue
        for seed in (0, 1):
            statistics = {"acceptance_rate": 0.55} if method in SELECTING else {}
            folder = runs / record(method, seed).run_id
            folder.mkdir(parents=True)
            write_matches(folder, np.random.default_rng(seed), 2.2 * gain + rng.normal(0, 2))
            metrics = matched_figures(folder)
            run = record(method, seed, metrics, statistics=statistics, cost=cost(method, rng, 200, 0.14))
            write_run(runs, run, rng, categories=24, steps=180)
            write_pictures(folder, np.random.default_rng(seed), method in SELECTING)
            write_metrics(folder, np.random.default_rng(seed), 200)
            made.append(run)
    write_sweep(runs, "mini", made)


def write_paper_main(runs: Path) -> list[Record]:
    """Methods × backbones × three seeds; X-Paste and DiverGen lack a run each on Swin-L, a BSGAL run failed there, one
    ResNet-50 run was made by older code. Returns all that the manifest expects."""
    rng = np.random.default_rng(2)
    made, missing = [], {("xpaste", 2), ("divergen", 1)}
    for backbone, level in (("resnet50", 34.4), ("swin_l", 47.3)):
        for method in list(GAIN)[:-1]:
            for seed in (0, 1, 2):
                settings = {"backbone": backbone, "data.name": "lvis_v1"}
                metrics = results(rng, level, GAIN[method] * (1 if backbone == "resnet50" else 0.7))
                run = record(method, seed, metrics, settings, cost=cost(method, rng, 90_000, 0.9))
                made.append(run)
                if backbone == "swin_l" and (method, seed) in missing:
                    continue
                if backbone == "swin_l" and (method, seed) == ("bsgal", 1):
                    run.status, run.metrics = Status.failed, {}
                    run.failure = {"kind": "out of memory", "message": "CUDA out of memory in step 41210"}
                if backbone == "resnet50" and (method, seed) == ("copy_paste", 2):
                    run.provenance = {**run.provenance, "code": "01d" * 20}
                    run.ended = 1_700_000_000.0
                write_run(runs, run, rng, categories=1203 if run.metrics else 0, steps=400 if run.metrics else 0)
    write_sweep(runs, "paper_main", made)
    return made


def write_divergen_scaling(runs: Path) -> None:
    """Four scales without and two with more diverse data, three seeds each."""
    rng = np.random.default_rng(3)
    gains = {
        (0, False): 0,
        (300_000, False): 1.9,
        (600_000, False): 2.4,
        (1_200_000, False): 1.6,
        (600_000, True): 3.0,
        (1_200_000, True): 3.7,
    }
    made = []
    for (scale, diverse), gain in gains.items():
        for seed in (0, 1, 2):
            settings = {"method": "divergen", "method.scale": scale, "backbone": "swin_l", "data.name": "lvis_v1"}
            settings["name"] = "with_gdde" if diverse else "without_gdde"
            run = record("divergen", seed, results(rng, 46.9, gain), settings, cost=cost("divergen", rng, 180_000, 1.4))
            run.name = settings["name"]
            write_run(runs, run, rng)
            made.append(run)
    write_sweep(runs, "divergen_scaling", made)
