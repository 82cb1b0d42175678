"""How long reports take over 10 000 made-up records: python -m tests.benchmarks.reports [number of records].

Two shapes: few rows of many seeds (`paper_main`), and a thousand rows of a few seeds each, as a large search leaves
behind. Records are as large as real ones (about 150 settings). `harness report` is a process of its own, so that what
it imports counts.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness.record.record import write_record
from reports.collect import collect
from reports.command import report_command
from reports.published import read_published
from reports.spec import read_spec
from reports.table import build_tables, to_frame
from tests.reports.made_up import GAIN, cost, record, results

BAR = 5.0  # seconds
SETTINGS = {f"group{i // 20}.setting_{i}": 0.1 * i for i in range(140)}
SEARCH = """
rows:
  search: {label: "tau {method_tau}", where: {method: bsgal}, each: method.tau}
  baseline: {}
baseline: baseline
"""


def write_papers_shape(runs: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    cells = list(itertools.product(list(GAIN)[:-1], ("resnet50", "swin_l")))
    for place in range(count):
        method, backbone = cells[place % len(cells)]
        settings = {**SETTINGS, "backbone": backbone, "data.name": "lvis_v1"}
        _write(runs, method, place // len(cells), settings, f"{method}-{backbone}-{place}", rng)


def write_search(runs: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    for place in range(count):
        method = "baseline" if place < 10 else "bsgal"
        _write(runs, method, place % 10, {**SETTINGS, "method.tau": place // 10 / 1000}, f"{method}-{place}", rng)


def _write(
    runs: Path, method: str, seed: int, settings: dict[str, object], run_id: str, rng: np.random.Generator
) -> None:
    made = record(
        method, seed, results(rng, 40, GAIN[method]), settings, run_id=run_id, cost=cost(method, rng, 1000, 0.5)
    )
    made.provenance["packages"] = {f"package-{i}": "1.2.3" for i in range(15)}
    write_record(runs, made)


def clock() -> np.ndarray:
    """Seconds by the wall, and of the processor by this process and those that it waited for."""
    *processor, wall = os.times()
    return np.array([wall, sum(processor)])


def seconds(span: np.ndarray) -> str:
    return f"{span[0]:.2f} s ({span[1]:.2f} s of CPU time)"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "search.yaml").write_text(SEARCH)
        for shape, spec, write in (
            ("papers' shape", "paper_main", write_papers_shape),
            ("search, ten seeds a row", str(folder / "search.yaml"), write_search),
        ):
            runs = folder / Path(spec).stem
            write(runs, count)
            print(f"{shape}: {count} records, {sum(p.stat().st_size for p in runs.glob('*/record.json')) / 1e6:.0f} MB")
            begun = clock()
            read = read_spec(spec)
            collection = collect(read, runs)
            collected = clock()
            table = to_frame(read, build_tables(read, collection, read_published()))
            built = clock()
            print(
                f"  collected in {seconds(collected - begun)}, {len(table)} rows built in {seconds(built - collected)}"
            )
            begun = clock()
            report_command(spec, runs, out=folder / "report")
            print(f"  whole report, all formats, in {seconds(clock() - begun)}; the bar is {BAR:.0f} s")
            begun = clock()
            command = [sys.executable, "-m", "harness.cli", "report", spec, "--runs", runs, "--out", folder / "other"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"  the same by `harness report`, with all that it imports, in {seconds(clock() - begun)}")


if __name__ == "__main__":
    main()
