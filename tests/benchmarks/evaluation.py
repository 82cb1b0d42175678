"""Exact LVIS evaluation against the `lvis` package: time, equality and memory in one run.

    python -m tests.benchmarks.evaluation [--images 100 1000 5000 20000] [--package-up-to 1000]

Real annotations of 100 images, replicated, with 300 made detections an image: perturbed annotations (boxes shifted,
polygons shifted and rasterised), wrong categories, and boxes of negative, not-exhaustive and any categories. Timed is
what lies between loaded annotations and results and the last figure: `LVISEval.run()`, without its loading and sorting
in `LVISResults`, against `evaluate`; a run's own evaluation says what is wrong with false positives as well (with
faults). Both run in one thread, and seconds are of CPU time, which others on the machine disturb less. Peak memory is
that of a process of its own, which reads the files and evaluates boxes and masks; read is the time that this takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.data.lvis.annotations import Annotations
from harness.data.lvis.cache import load_annotations
from harness.evaluate import Detections, IouType, evaluate
from harness.evaluate.lvis_compat import numpy_float
from tests.evaluate.made_detections import REAL, largest_difference, make_results, package_evaluator, replicate

PER_IMAGE = 300
ROW = "{:>7} {:>5} {:>10} {:>7} {:>12} {:>6} {:>19} {:>7} {:>9}"
IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--package-up-to", type=int, default=1000, help="images up to which the package runs too")
    parser.add_argument("--ours-only", type=Path, nargs=2, metavar=("ANNOTATIONS", "PARQUET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours_only:
        measure_ours(*arguments.ours_only)
        return
    logging.disable(logging.WARNING)
    print(
        ROW.format(
            "images", "type", "package s", "ours s", "with faults", "ratio", "largest difference", "read s", "peak MiB"
        )
    )
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            compare(images, Path(folder), images <= arguments.package_up_to)


def compare(images: int, folder: Path, with_package: bool) -> None:
    truth, parquet = folder / "truth.json", folder / "detections.parquet"
    truth.write_text(json.dumps(replicate(REAL, images // 100)))
    annotations = load_annotations(truth)
    made_detections(annotations, images // 100).write_parquet(parquet)
    command = [sys.executable, "-m", "tests.benchmarks.evaluation", "--ours-only", str(truth), str(parquet)]
    ours = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    for iou_type in IOU_TYPES:
        seconds = ours[iou_type]
        package, ratio, difference = "-", "-", "-"
        if with_package:
            detections = Detections.read(parquet)
            evaluator = package_evaluator(truth, as_results(detections), iou_type)
            start = time.process_time()
            with numpy_float():
                evaluator.run()
            spent = time.process_time() - start
            package, ratio = f"{spent:.1f}", f"{spent / seconds:.1f}"
            verdict = evaluate(annotations, detections, (iou_type,))
            difference = f"{largest_difference(verdict, evaluator, iou_type):.1e}"
        measured = (
            f"{seconds:.2f}",
            f"{ours[f'{iou_type} with faults']:.2f}",
            ratio,
            difference,
            f"{ours['read']:.2f}",
            f"{ours['peak']:.0f}",
        )
        print(ROW.format(images, iou_type, package, *measured), flush=True)


def made_detections(annotations: Annotations, times: int) -> Detections:
    """The first 100 images' detections for every replica, with scores of its own."""
    rng = np.random.default_rng(0)
    base = Detections.from_results(make_results(load_annotations(REAL), PER_IMAGE, rng))
    step = int(annotations.image_ids[::100][-1] - annotations.image_ids[0]) // max(times - 1, 1)
    return Detections.concatenate(
        [replace(base, image_ids=base.image_ids + n * step, scores=rng.random(len(base))) for n in range(times)]
    )


def as_results(detections: Detections) -> list[dict]:
    assert detections.boxes is not None
    assert detections.masks is not None
    columns = [detections.image_ids, detections.category_ids, detections.scores, detections.boxes]
    names = ("image_id", "category_id", "score", "bbox", "segmentation")
    rows = zip(*(c.tolist() for c in columns), detections.masks.rles(np.arange(len(detections))), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def measure_ours(truth: Path, parquet: Path) -> None:
    start = time.process_time()
    annotations, detections = load_annotations(truth), Detections.read(parquet)
    found = {"read": time.process_time() - start}
    for iou_type in IOU_TYPES:
        start = time.process_time()
        evaluate(annotations, detections, (iou_type,))
        found[iou_type] = time.process_time() - start
        start = time.process_time()
        evaluate(annotations, detections, (iou_type,), with_faults=True)
        found[f"{iou_type} with faults"] = time.process_time() - start
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
