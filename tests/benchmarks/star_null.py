"""How often a report of noise earns a star: python -m tests.benchmarks.star_null [--reports 4000].

Eleven rows, one of which is the baseline that all share, and four columns; no row differs from another but by noise. A
seed moves all columns of a run together, as training does. Reports are made as `harness report` makes them, from
differences to verdicts; `each cell` counts those in which some cell alone has p <= 0.05.
"""

from __future__ import annotations

import argparse

import numpy as np

from reports.statistics import RATE, differences, holm

ROWS, COLUMNS, SEEDS = 10, 4, (3, 5, 10)
LINE = "{:>6} {:>12} {:>8} {:>10}"


def noise(rng: np.random.Generator, seeds: int, heavy: bool) -> np.ndarray:
    """(rows + baseline, seeds, columns): what a run's seed moves, and what moves each column alone."""
    draw = (lambda shape: rng.standard_t(4, shape)) if heavy else rng.standard_normal
    return draw((ROWS + 1, seeds, 1)) + 0.7 * draw((ROWS + 1, seeds, COLUMNS))


def stars(values: np.ndarray) -> tuple[bool, bool]:
    """Whether any row has a star in the primary column, and whether any cell would have had one by itself."""
    pairs = [values[row, :, column] - values[0, :, column] for row in range(1, ROWS + 1) for column in range(COLUMNS)]
    p = np.array([found.p for found in differences(pairs, [None] * len(pairs), 0.95) if found is not None])
    primary = p.reshape(ROWS, COLUMNS)[:, -1]
    return min(holm(primary.tolist())) <= RATE, bool(p.min() <= RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    print(LINE.format("seeds", "noise", "stars", "each cell"))
    for heavy in (False, True):
        for seeds in SEEDS:
            found = np.mean([stars(noise(rng, seeds, heavy)) for _ in range(arguments.reports)], axis=0)
            kind = "t with 4" if heavy else "normal"
            print(LINE.format(seeds, kind, f"{found[0]:.1%}", f"{found[1]:.1%}"), flush=True)


if __name__ == "__main__":
    main()
