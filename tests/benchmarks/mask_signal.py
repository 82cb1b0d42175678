"""Whether the mask loss tells broken masks, beside the confidence in the label: `docs/explanation/selection.md`.

    python -m tests.benchmarks.mask_signal RUN [--pool half_bad clean] [--runs runs]

Nothing is trained. Every instance is pasted alone into two training images, as `harness score` pastes it, and the mask
is predicted in its own box. Truth is that of the embedded dataset's pools.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.data.sample import Sample, View
from harness.record.decisions import roc
from harness.stages.looks import Looks
from methods.confidence import log_odds
from methods.contract import LossKind, Proposals
from methods.two_groups import in_higher_group
from tests.benchmarks.confidence_quality import weights_of
from tests.small_training import setup

SEED = 10  # of the host images; none of the sweeps' seeds
HOSTS = 2
ROWS_AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of recipe=mini")
    parser.add_argument("--pool", nargs="+", default=["half_bad", "clean"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    weights = weights_of(options.runs, options.run)
    for pool in options.pool:
        print(report(pool, weights), flush=True)


def report(pool_name: str, weights: dict[str, torch.Tensor]) -> str:
    config = compose(["recipe=mini_paste", f"data.pool={pool_name}", f"seed={SEED}", "schedule.iterations=1"]).config
    engine, _, _ = setup(config)
    engine.module.load_state_dict(weights)
    dataset = Dataset(config.data)
    pool = dataset.pool
    kinds = dataset.kinds(pool)
    assert kinds is not None
    looks = Looks(dataset, pool, SEED, HOSTS)
    signals = np.full((len(pool), 2), np.nan)
    for start in range(0, len(pool), ROWS_AT_ONCE):
        seen = [(row, _alone(s)) for row in range(start, min(start + ROWS_AT_ONCE, len(pool))) for s in looks.at(row)]
        rows, views = np.array([row for row, _ in seen]), [view for _, view in seen]
        with torch.no_grad():
            rng = torch.Generator().manual_seed(SEED)
            table = engine.losses(views, Proposals.GROUND_TRUTH, rng, backbone_in_eval=True)
            confidence = engine.confidence(views, table)[:, 0].double().numpy()
        (mask,) = (table.losses[name] for name in table.names(LossKind.MASK))
        agreement = -torch.log(mask.sum / mask.count).double().numpy()
        for row in np.unique(rows):
            signals[row] = confidence[rows == row].mean(), agreement[rows == row].mean()
    known = ~np.isnan(signals[:, 0])
    return _judged(pool_name, log_odds(signals[known, 0]), signals[known, 1], pool.categories[known], kinds[known])


def _alone(sample: Sample) -> View:
    """The pasted view with the pasted instance as its only target."""
    assert sample.augmented is not None
    targets = sample.augmented.targets
    return dataclasses.replace(sample.augmented, targets=targets[targets.pasted])


def _judged(pool: str, confidence: np.ndarray, agreement: np.ndarray, category: np.ndarray, kind: np.ndarray) -> str:
    lines = [f"{pool}: {len(kind)} instances, {(kind == 'clean').mean():.0%} clean"]
    for name, signal in (("confidence", confidence), ("mask loss", agreement)):
        told = {bad: roc(signal, kind == "clean", kind == bad) for bad in np.unique(kind) if bad != "clean"}
        figures = ", ".join(f"{bad} {curve.auroc:.2f}" for bad, curve in told.items() if curve is not None)
        lines += [f"  AUROC by {name}, clean against {figures}"] if figures else []
    by_confidence = in_higher_group(confidence, category)
    by_both = by_confidence & in_higher_group(agreement, category)
    for name, kept in {"confidence": by_confidence, "both": by_both}.items():
        shares = ", ".join(f"{each} {kept[kind == each].mean():.0%}" for each in np.unique(kind))
        lines.append(f"  the higher of two groups by {name}: kept {kept.mean():.0%}; of {shares}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
