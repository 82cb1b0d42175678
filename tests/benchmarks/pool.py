"""Opening a large pool in a loader worker against the published way: time, memory and time of a draw, in one run.

    python -m tests.benchmarks.pool [--rows 10000 100000 1200000] [--plot pool.png]

Made-up pools of 1203 categories with paths as long as published ones. Ours is what a worker does: unpickle the pool
(its path), map the index and draw for the first time; `filtered` is the same of a pool without every tenth row. The
published way, written from its description: json.load, then a list of positions per category and a dictionary from
path to category. Each is measured in a process of its own; memory is what it has written more than before (pages of the
mapped index are the page cache's, one copy for all workers). A draw is an instance of X-Paste's draw and the look-up of
its files, CPU time averaged over ten thousand.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CATEGORIES = 1203
ROW = "{:>10}{:>9}{:>10}{:>14}{:>7}{:>9}{:>13}{:>14}{:>9}{:>14}"
REPEATS = 3
DRAWN = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_200_000])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        how, path = arguments.measure
        print(json.dumps((ours if how == "ours" else published)(Path(path))))
        return
    names = "rows", "ours ms", "filtered", "published ms", "ratio", "ours MB", "filtered MB", "published MB", "draw µs"
    print(ROW.format(*names, "published µs"))
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in arguments.rows:
            listing = write_listing(Path(folder) / f"pool{rows}.json", rows)
            whole, filtered = prepared(listing, Path(folder))
            own, part = measured("ours", whole), measured("ours", filtered)
            other = measured("published", listing)
            table.append((rows, own, other))
            figures = [
                f"{own['ms']:.1f}",
                f"{part['ms']:.1f}",
                f"{other['ms']:.0f}",
                f"{other['ms'] / own['ms']:.0f}",
                f"{own['mb']:.1f}",
                f"{part['mb']:.1f}",
                f"{other['mb']:.0f}",
                f"{own['draw_us']:.1f}",
                f"{other['draw_us']:.1f}",
            ]
            print(ROW.format(rows, *figures))
    if arguments.plot:
        plot(table, arguments.plot)


def write_listing(path: Path, rows: int) -> Path:
    """A published JSON; categories differ in size as a filtered pool's do."""
    rng = np.random.default_rng(0)
    categories = rng.choice(CATEGORIES, rows, p=rng.dirichlet(np.full(CATEGORIES, 5.0)))
    listing: dict[str, list[str]] = {}
    for number, category in enumerate(categories.tolist()):
        entry = f"instance_pools/stable_diffusion_v1_5/images/{category + 1}_category_name/{number:07d}.png"
        listing.setdefault(str(category), []).append(f"{entry}|{entry.replace('images', 'masks_clipseg')}")
    path.write_text(json.dumps(listing))
    return path


def prepared(listing: Path, folder: Path) -> tuple[Path, Path]:
    """The pickled pools that a worker is handed, whole and filtered; the index is made once, which is timed apart."""
    from harness.data.pool.index import open_pool

    begun = time.perf_counter()
    pool = open_pool(listing, CATEGORIES, folder / "cache")
    print(f"  index of {len(pool)} rows made once in {time.perf_counter() - begun:.1f} s")
    handed = folder / f"{listing.stem}.pickle", folder / f"{listing.stem}.filtered.pickle"
    handed[0].write_bytes(pickle.dumps(pool))
    handed[1].write_bytes(pickle.dumps(pool.subset(np.flatnonzero(np.arange(len(pool)) % 10))))
    return handed


def measured(how: str, path: Path) -> dict[str, float]:
    """The fastest of a few processes."""
    command = [sys.executable, "-m", "tests.benchmarks.pool", "--measure", how, str(path)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(REPEATS)]
    return {key: min(run[key] for run in runs) for key in runs[0]}


def ours(path: Path) -> dict[str, float]:
    import harness.data.pool.pool  # noqa: F401 (a worker has it imported)
    from methods.contract import uniform_over_categories

    rng = np.random.default_rng(0)
    before, begun = private_mb(), time.perf_counter()
    pool = pickle.loads(path.read_bytes())
    pool.source(int(rng.choice(pool.rows_of(int(rng.choice(pool.present_categories))))))
    milliseconds = 1000 * (time.perf_counter() - begun)

    count, begun = 0, time.process_time()
    while count < DRAWN:
        for row in uniform_over_categories(pool, rng).rows.tolist():
            pool.source(row)
            count += 1
    microseconds = 1e6 * (time.process_time() - begun) / count
    return {"ms": milliseconds, "draw_us": microseconds, "mb": private_mb() - before}


def published(path: Path) -> dict[str, float]:
    np.random.seed(0)  # noqa: NPY002 (as published)
    before, begun = private_mb(), time.perf_counter()
    with path.open() as file:
        listing = {int(category): entries for category, entries in json.load(file).items()}
    files: list[str] = []
    positions: dict[int, list[int]] = {}
    category_of: dict[str, int] = {}
    for category, entries in listing.items():
        positions[category] = list(range(len(files), len(files) + len(entries)))
        files += entries
        for entry in entries:
            category_of[entry] = category
    per_category = [positions[category] for category in positions if len(positions[category])]
    milliseconds = 1000 * (time.perf_counter() - begun)

    begun = time.process_time()
    for _ in range(DRAWN):
        chosen = per_category[np.random.randint(0, len(per_category))]  # noqa: NPY002
        entry = files[chosen[np.random.randint(0, len(chosen))]]  # noqa: NPY002
        assert category_of[entry] >= 0
    microseconds = 1e6 * (time.process_time() - begun) / DRAWN
    return {"ms": milliseconds, "draw_us": microseconds, "mb": private_mb() - before}


def private_mb() -> float:
    """Memory that this process has written, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def plot(table: list[tuple[int, dict[str, float], dict[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    rows = [row for row, _, _ in table]
    for axes, key, name in zip(
        figure.subplots(1, 3), ("ms", "mb", "draw_us"), ("opening, ms", "private memory, MB", "a draw, µs"), strict=True
    ):
        axes.plot(rows, [own[key] for _, own, _ in table], "o-", label="memory-mapped index")
        axes.plot(rows, [other[key] for _, _, other in table], "s--", label="published loader")
        axes.set(
            xscale="log", yscale="linear" if key == "draw_us" else "log", xlabel="instances in the pool", title=name
        )
        axes.set_ylim(bottom=0 if key == "draw_us" else None)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
