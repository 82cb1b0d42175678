"""Random evaluations, malformed ones among them, against the `lvis` package, each with a time limit:

    python -m tests.benchmarks.evaluation_cases [--cases 300] [--seed 1] [--limit 60]

Each case takes a few real annotated images, detections made from them, and boxes or masks. Every third is then
spoilt: a mask's bytes or runs, a polygon's coordinates, sizes, ids, scores. Each runs in a process of its own, since
what hangs or crashes pycocotools does so in C. A case ends well when every figure equals the package's to 1e-9, or
when the spoilt entry is named; what the package makes of an entry that we name is not asked.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.lvis.cache import load_annotations
from harness.errors import UserError
from harness.evaluate import Detections, IouType, evaluate
from tests.evaluate.made_detections import REAL, largest_difference, make_results, package_evaluation

GOOD = ("equal", "named", "equal, though spoilt", "package fails")
ABSURD = (0.0, -1.0, 1e5, 2.0**31, -(2.0**31), 1e300, 0.5)


def random_case(seed: int, folder: Path) -> tuple[Path, list[dict], IouType]:
    """Annotations of up to twelve real images, and results for them."""
    rng = np.random.default_rng(seed)
    content = json.loads(REAL.read_text())
    chosen = rng.choice(len(content["images"]), rng.integers(1, 13), replace=False)
    content["images"] = [content["images"][place] for place in chosen.tolist()]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in ids]
    for each in content["annotations"]:
        each["ignore"] = int(rng.random() < 0.05)
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    results = make_results(load_annotations(path), int(rng.integers(1, 60)), rng, ties=bool(rng.integers(2)))
    if rng.random() < 0.2:
        for each in results:
            del each["bbox"]
    return path, results, "bbox" if rng.random() < 0.5 else "segm"


def spoil(results: list[dict], seed: int) -> None:
    """One entry of the results, in one of many ways."""
    rng = np.random.default_rng([seed, 1])
    entry = results[rng.integers(len(results))]
    size, counts = entry["segmentation"]["size"], entry["segmentation"]["counts"]
    place, pixels = int(rng.integers(len(counts))), size[0] * size[1]
    ways: list[dict[str, Any]] = [
        {"segmentation": {"size": size, "counts": counts[:place]}},
        {"segmentation": {"size": size, "counts": counts + chr(int(rng.integers(48, 112)))}},
        {
            "segmentation": {
                "size": size,
                "counts": counts[:place] + chr(int(rng.integers(33, 126))) + counts[place + 1 :],
            }
        },
        {"segmentation": {"size": size, "counts": [0, int(rng.integers(1, 5)) * pixels]}},
        {"segmentation": {"size": size, "counts": rng.integers(-9, pixels, 5).tolist()}},
        {"segmentation": {"size": [int(rng.choice([0, -1, 2**31, size[0] + 1])), size[1]], "counts": counts}},
        {"segmentation": [rng.choice(ABSURD, int(rng.integers(1, 9))).tolist()]},
        {"segmentation": None},
        {"score": float(rng.choice([np.nan, np.inf, -np.inf]))},
        {"bbox": rng.choice(ABSURD, 4).tolist()},
        {"bbox": [1.0, float("nan"), 5.0, 5.0]},
        {"image_id": 123_456_789},
        {"category_id": -5},
    ]
    entry.update(ways[rng.integers(len(ways))])


def judge(seed: int, spoilt: bool, answer: Connection) -> None:
    """Says how a case ends, our part before the package's."""
    with tempfile.TemporaryDirectory() as folder:
        path, results, iou_type = random_case(seed, Path(folder))
        if spoilt:
            spoil(results, seed)
        file = Path(folder) / "results.json"
        file.write_text(json.dumps(results))
        try:
            annotations = load_annotations(path)
            ours = evaluate(annotations, Detections.read(file, annotations), (iou_type,))
        except UserError as error:
            answer.send("named" if spoilt and str(error).startswith(str(file)) else f"refused: {error}")
            return
        answer.send("ours")
        apart = largest_difference(ours, package_evaluation(path, results, iou_type), iou_type)
        answer.send(("equal, though spoilt" if spoilt else "equal") if apart < 1e-9 else f"apart by {apart:.1e}")


def outcome(seed: int, spoilt: bool, limit: float) -> str:
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=judge, args=(seed, spoilt, there))
    process.start()
    there.close()
    words = []
    try:
        while here.poll(limit):
            words.append(here.recv())
    except EOFError:
        pass
    process.kill()
    process.join()
    if words in ([], ["ours"]):
        return "package fails" if words and spoilt else "hangs or crashes"
    return str(words[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a case")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the package's
    found: Counter[str] = Counter()
    for case in range(arguments.cases):
        seed, spoilt = 100_000 * arguments.seed + case, case % 3 == 2
        ended = outcome(seed, spoilt, arguments.limit)
        found[ended] += 1
        if ended not in GOOD:
            print(f"case {seed}{', spoilt' if spoilt else ''}: {ended}", flush=True)
    for ended, count in found.most_common():
        print(f"{count:>5}  {ended}")


if __name__ == "__main__":
    main()
