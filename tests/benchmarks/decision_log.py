"""What logging a long training's decisions costs: memory, saves, and the table that is made of them in the end.

    python -m tests.benchmarks.decision_log [--rows 1440000] [--instances]

180 000 steps of 8 images on one rank, as BSGAL has them at a global batch of 64 on 8 ranks: 10 pasted instances an
image, a save every 5000 steps. With --instances each instance has a contribution, a decision and a weight of its own.
Memory is the process's resident size (Linux, /proc/self/statm), above what it is with
the libraries loaded.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.record.decision_log import DecisionLog, write_decisions

IMAGES, INSTANCES, SAVE_EVERY = 8, 10, 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_440_000)
    parser.add_argument("--instances", action="store_true")
    options = parser.parse_args()
    rows = options.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _warm_up(folder / "warm")
        before = resident_mib()
        most, slowest, busy = train(DecisionLog(folder, 0), rows // IMAGES, before, options.instances)
        size = (folder / "decisions" / "rank0.arrow").stat().st_size / 2**20
        print(f"{rows} rows: +{most:.0f} MiB at most, slowest of the saves {slowest:.3f} s, {size:.0f} MiB on disk")
        print(f"{1e6 * busy / rows:.1f} µs of CPU time a row, saves counted")
        clean = np.random.default_rng(0).random(1_200_000) < 0.5
        begun, before = time.process_time(), resident_mib()
        write_decisions(folder, 1, clean)
        print(
            f"decisions.parquet: {time.process_time() - begun:.1f} s of CPU time, "
            f"+{peak_mib() - before:.0f} MiB at most"
        )


def train(log: DecisionLog, steps: int, before: float, instances: bool) -> tuple[float, float, float]:
    """Most memory in MiB, the slowest save in seconds, and CPU seconds inside the log."""
    draws = np.random.default_rng(0)
    most = slowest = busy = 0.0
    for step in range(steps):
        rows = step_of(step, draws, instances)
        begun = time.process_time()
        log.append(rows)
        if step % SAVE_EVERY == 0:
            started = time.perf_counter()
            log.save()
            slowest = max(slowest, time.perf_counter() - started)
            most = max(most, resident_mib() - before)
        busy += time.process_time() - begun
    log.save()
    return max(most, resident_mib() - before), slowest, busy


def step_of(step: int, draws: np.random.Generator, instances: bool = False) -> list[dict[str, Any]]:
    pool = draws.integers(0, 1_200_000, (IMAGES, INSTANCES)).tolist()
    value = draws.normal()
    return [
        {
            "iteration": step,
            "rank": 0,
            "image": image,
            "pool_rows": pool[image],
            "categories": [row % 1203 for row in pool[image]],
            "contribution": None if instances else value,
            "threshold": None if instances else -0.05,
            "accepted": value >= -0.05,
            "decided": True,
            "contributions": draws.normal(size=INSTANCES).tolist() if instances else None,
            "kept": (draws.random(INSTANCES) < 0.5).tolist() if instances else None,
            "weights": draws.random(INSTANCES).tolist() if instances else None,
        }
        for image in range(IMAGES)
    ]


def _warm_up(folder: Path) -> None:
    """Libraries load their parts when they are first used."""
    log = DecisionLog(folder, 0)
    log.append(step_of(0, np.random.default_rng(0)))
    log.save()
    write_decisions(folder, 1, None)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    pa.default_memory_pool().release_unused()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
