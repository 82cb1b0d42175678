"""Do BSGAL's fast settings decide as the exact contribution does? Cohen's kappa and Spearman's rho over mini runs.

    python -m tests.benchmarks.bsgal_agreement [--seeds 0 1 2] [--runs runs]

Exact BSGAL continues the embedded dataset's baseline with a half-bad pool and decides at a running median; every other
setting judges the same batches at the same weights, with a cache and a running median of its own, and is compared with
exact BSGAL of its momentum. The baselines are those of `sweeps/mini.yaml`, trained where they are missing. The first
`WARM_UP` decisions, with hardly a median to compare with, are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from tests.benchmarks.mini_runs import complete, spread

STUDY = [
    "method=bsgal_agreement",
    f"method_paths=[{Path(__file__).with_name('agreement_method.py')}]",
    "method.max_samples=6",
    "data.pool=half_bad",
    "schedule=mini_continue",
    "schedule.log_every=1",
]
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    tables = [judged(options.runs, seed) for seed in options.seeds]
    print(f"{len(tables)} runs, {sum(map(len, tables))} decisions; mean and standard deviation over runs")
    print(f"{'setting':<42} {'kappa':>16} {'rho':>16} {'accepted':>9}")
    for name in tables[0].columns.str.extract(r"judge/(.*)/contribution")[0].dropna():
        kappas, rhos, rates = zip(*(compared(table, name) for table in tables), strict=True)
        print(f"{name:<42} {spread(kappas):>16} {spread(rhos):>16} {np.mean(rates):>8.0%}")


def judged(runs: Path, seed: int) -> pd.DataFrame:
    """One run's decisions: a row for each batch decided, columns judge/<setting>/contribution and /accepted."""
    common = [f"runs_dir={runs}", f"seed={seed}"]
    baseline = complete([*common, "method=baseline", "schedule=mini"])
    run_id = complete([*common, *STUDY, f"init_from={baseline}"])
    lines = (runs / run_id / "metrics.jsonl").read_text().splitlines()
    table = pd.DataFrame([json.loads(line) for line in lines]).filter(like="judge/")
    return table.dropna().iloc[WARM_UP:]


def compared(table: pd.DataFrame, name: str) -> tuple[float, float, float]:
    """Kappa and rho of a setting against exact BSGAL of its momentum, and the setting's rate of acceptance (0..1)."""
    names = ("momentum=0.9" if name.startswith("momentum=0.9") else "exact"), name
    exact, other = (table[f"judge/{which}/accepted"].to_numpy() > 0 for which in names)
    agreed = (exact == other).mean()
    by_chance = exact.mean() * other.mean() + (1 - exact.mean()) * (1 - other.mean())
    kappa = (agreed - by_chance) / (1 - by_chance)
    rho = spearmanr(*(table[f"judge/{which}/contribution"] for which in names)).statistic
    return float(kappa), float(rho), float(other.mean())


if __name__ == "__main__":
    main()
