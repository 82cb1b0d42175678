"""Does the offline score of single instances tell good from bad? AUROC against the hidden truth of the half-bad pool.

    python -m tests.benchmarks.score_quality [--seeds 0 1 2] [--runs runs]

Baselines of the embedded dataset score the pool at their frozen weights, early in training (100 steps) and at its end
(800, the baseline of `sweeps/mini.yaml`); runs that are missing are trained. The rankings are left in
RUNS/rankings/<stage>-s<seed>.csv, where `sweeps/selection.yaml` reads those of the end.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from pathlib import Path

import pandas as pd

from harness.commands.hidden_truth import ANY_FAULT, rocs_by_kind
from harness.commands.score import stage_command, within_categories
from harness.config import Stage, StageConfig
from harness.data.mini.truth import CLEAN
from tests.benchmarks.mini_runs import complete, spread

BASELINE = ["method=baseline", "schedule=mini"]
CONFIDENCE = StageConfig(Stage.score)
GRADIENT = StageConfig(Stage.score, "gradient")
TWENTY_EACH = dataclasses.replace(GRADIENT, per_category=20)
# Stage of training and score: options of the baseline, and of the score.
SCORES = {
    "early": (["schedule.iterations=100"], TWENTY_EACH),
    "late-confidence": ([], CONFIDENCE),
    "late": ([], GRADIENT),
    "late-4-hosts": ([], dataclasses.replace(TWENTY_EACH, hosts=4)),
    "late-random-references": ([], dataclasses.replace(TWENTY_EACH, reference_policy="random_image")),
    "late-loss-difference": ([], dataclasses.replace(TWENTY_EACH, by="loss_difference")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    print("AUROC of clean instances against each kind of fault: mean ± standard deviation over runs, (least to most)")
    for name, (training, scored) in SCORES.items():
        found: dict[str, list[float]] = defaultdict(list)
        for seed in options.seeds:
            ranking = options.runs / "rankings" / f"{name}-s{seed}.csv"
            if not ranking.is_file():
                run_id = complete([*BASELINE, *training, f"seed={seed}", f"runs_dir={options.runs}"])
                stage_command(options.runs, run_id, scored, ranking, "half_bad")
            for kind, value in areas(pd.read_csv(ranking)).items():
                found[kind].append(value)
        for kind, values in found.items():
            print(f"{name:<24} {kind:<26} {spread(values)}  ({min(values):.3f} to {max(values):.3f})", flush=True)


def areas(ranking: pd.DataFrame) -> dict[str, float]:
    """AUROC by kind of fault over the whole pool, and of all faults by the ranks within categories."""
    kinds = ranking["kind"].to_numpy(str)
    scores = ranking["score"].to_numpy()
    ranks = within_categories(scores, ranking["category"].to_numpy())
    named = {f"{CLEAN} against {kind}": curve.auroc for kind, curve in rocs_by_kind(scores, kinds).items()}
    return named | {f"{ANY_FAULT}, within categories": rocs_by_kind(ranks, kinds)[ANY_FAULT].auroc}


if __name__ == "__main__":
    main()
