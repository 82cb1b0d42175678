"""Loading annotations of LVIS v1 train's size, cold and warm, and what a further process that opens them costs.

    python -m tests.benchmarks.annotations [--annotations 1270000]

Real annotations (68 coordinates each on average) are replicated to the wanted number; the full file is of 0.8 GB and
its first reading takes some 2.5 GB of memory. Warm is what every later process pays: fingerprint and opening, in a
fresh interpreter, and then touching every annotation's box, category and area. Memory of workers is their dirty private
pages (Linux, proc/self/smaps_rollup), which the mapped arrays are no part of.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.data.lvis.annotations import Annotations
from harness.data.lvis.cache import load_annotations
from tests.evaluate.made_detections import REAL

WARM = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from harness.data.lvis.cache import load_annotations
imported = time.perf_counter()
annotations = load_annotations(Path(sys.argv[1]), Path(sys.argv[2]))
opened = time.perf_counter()
checksum = annotations.boxes.sum() + annotations.annotation_categories.sum() + annotations.areas.sum()
touched = time.perf_counter()
print(imported - start, opened - imported, touched - opened)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, default=1_270_000)
    wanted = parser.parse_args().annotations
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BSGAL_BENCH_CACHE"] = str(folder / "home")
        path, cache = folder / "train.json", folder / "cache"
        write_synthetic(path, wanted)
        start, busy = time.perf_counter(), time.process_time()
        annotations = load_annotations(path, cache)
        print(f"{len(annotations.areas)} annotations, {path.stat().st_size / 2**20:.0f} MiB of JSON")
        spent = f"{time.perf_counter() - start:.1f} s, {time.process_time() - busy:.1f} s of them on the CPU"
        print(f"cold: {spent}, peak memory {peak_mib():.0f} MiB")
        for attempt in range(3):
            command = [sys.executable, "-c", WARM, str(path), str(cache)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            imported, opened, touched = map(float, answer)
            print(
                f"warm {attempt}: import {imported:.2f} s, open {opened:.3f} s, touch boxes and areas {touched:.2f} s"
            )
        size = sum(file.stat().st_size for file in cache.rglob("*.npy")) / 2**20
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            private = pool.map(private_growth_mib, [annotations, annotations])
        print(f"cache {size:.0f} MiB; private memory of a spawned worker that reads it all: +{max(private):.0f} MiB")


def private_growth_mib(annotations: Annotations) -> float:
    before = _private_mib()
    float(annotations.coordinates.sum() + annotations.boxes.sum())
    return _private_mib() - before


def _private_mib() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_synthetic(path: Path, wanted: int) -> None:
    """Real images and annotations under new ids, written as text so that the file costs no memory to make."""
    data = json.loads(REAL.read_text())
    position = {image["id"]: number for number, image in enumerate(data["images"])}
    parts = [
        (json.dumps({k: v for k, v in a.items() if k not in ("id", "image_id")})[1:], position[a["image_id"]])
        for a in data["annotations"]
    ]
    images = [json.dumps({k: v for k, v in image.items() if k != "id"})[1:] for image in data["images"]]
    times = int(np.ceil(wanted / len(parts)))
    with path.open("w") as file:
        file.write('{"categories": ' + json.dumps(data["categories"]) + ', "images": [')
        for n in range(times):
            ids = range(n * len(images) + 1, (n + 1) * len(images) + 1)
            rows = (f'{{"id": {i}, {image}' for i, image in zip(ids, images, strict=True))
            file.write((", " if n else "") + ", ".join(rows))
        file.write('], "annotations": [')
        for n in range(times):
            rows = (
                f'{{"id": {n * len(parts) + i + 1}, "image_id": {n * len(images) + image + 1}, {text}'
                for i, (text, image) in enumerate(parts[: wanted - n * len(parts)])
            )
            file.write((", " if n else "") + ", ".join(rows))
        file.write("]}")


if __name__ == "__main__":
    main()
