"""What the detector's confidence tells about pasted instances, at a finished run's weights: see
`docs/explanation/selection.md`.

    python -m tests.benchmarks.confidence_quality RUN [--pool confused half_bad clean] [--batches 40] [--runs runs]

Nothing is trained. Instances are pasted as a paste row of the mini sweep pastes them, and each is looked at once for
every time that it is drawn. Truth is that of the embedded dataset's pools.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from harness.compose import compose
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.record.decisions import roc
from harness.training import checkpoint
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.confidence import BEST, log_odds
from methods.two_groups import in_higher_group
from tests.small_training import setup

# Rules beside two groups: confidence of at least so much; of so much times its category's best; among so much of its
# category's best.
ABSOLUTE, RELATIVE, SHARES = (0.05, 0.2), (0.1, 0.25, 0.5), (0.5, 0.25)
SEED = 10  # of what is drawn; none of the sweeps' seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of recipe=mini")
    parser.add_argument("--pool", nargs="+", default=["confused", "half_bad", "clean"])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    weights = weights_of(options.runs, options.run)
    for pool in options.pool:
        print(report(pool, looked_at(pool, weights, options.batches)), flush=True)


def weights_of(runs: Path, run: str) -> dict[str, torch.Tensor]:
    """A run's final weights. Raises UserError if it has left none."""
    content = checkpoint.load_final(runs / run / "checkpoint", torch.device("cpu"))
    if content is None:
        raise UserError(f"{run} has left no weights in {runs}")
    weights: dict[str, torch.Tensor] = content["model"]
    return weights


@dataclass(frozen=True)
class Looks:
    """Every pasted instance: confidence (K,), what it is (K,) text, category (K,) and its frequency group (K,) text."""

    confidence: np.ndarray
    kind: np.ndarray
    category: np.ndarray
    frequency: np.ndarray


def looked_at(pool: str, weights: dict[str, torch.Tensor], batches: int) -> Looks:
    overrides = ["recipe=mini_paste", f"data.pool={pool}", f"seed={SEED}", "data.workers=0"]
    config = compose([*overrides, f"schedule.iterations={batches}"]).config
    engine, _, stream = setup(config)
    engine.module.load_state_dict(weights)
    dataset = Dataset(config.data)
    kinds = dataset.kinds(dataset.prepared_pool(config.method, config.seed))
    assert kinds is not None
    found = []
    for place, batch in enumerate(islice(stream(0), batches)):
        step = TrainingStep(engine, batch, StepPosition(SEED, place, batches), Ranks())
        instances = step.instances
        with torch.no_grad():
            confidence = step.confidence()[instances.pasted]
        rows, labels = instances.pool_row[instances.pasted].numpy(), instances.labels[instances.pasted].numpy()
        found.append((confidence.numpy(), kinds[rows], labels, dataset.train.frequency[labels]))
    return Looks(*(np.concatenate(part) for part in zip(*found, strict=True)))


def rules(looks: Looks) -> dict[str, np.ndarray]:
    """What each rule keeps, (K,) bool."""
    own = [looks.confidence[looks.category == each] for each in looks.category]

    def reaches(quantile: float, factor: float = 1.0) -> np.ndarray:
        return looks.confidence >= factor * np.array([np.quantile(values, quantile) for values in own])

    kept = {"the higher of two groups of the category": in_higher_group(log_odds(looks.confidence), looks.category)}
    kept |= {f"at least {level:g}": looks.confidence >= level for level in ABSOLUTE}
    kept |= {f"at least {level:g} of the category's best": reaches(BEST, level) for level in RELATIVE}
    return kept | {f"best {share:.0%} of the category": reaches(1 - share) for share in SHARES}


def report(pool: str, looks: Looks) -> str:
    confidence, kind, frequency = looks.confidence, looks.kind, looks.frequency
    good = kind == "clean"
    lines = [f"{pool}: {len(good)} instances, {good.mean():.0%} clean"]
    groups = {"all": np.ones_like(good), "rare": frequency == "r"}
    groups |= {name: good | (kind == name) for name in np.unique(kind[~good])}
    told = {name: _auroc(confidence[rows], good[rows]) for name, rows in groups.items()}
    known = [f"{name} {value:.3f}" for name, value in told.items() if value is not None]
    lines += [f"  AUROC, clean against bad: {', '.join(known)}"] if known else []
    for rule, kept in rules(looks).items():
        shares = {f"clean {letter}": kept[good & (frequency == letter)] for letter in "rcf"}
        shares |= {f"bad {letter}": kept[~good & (frequency == letter)] for letter in "rcf"}
        text = ", ".join(f"{name} {share.mean():.0%}" for name, share in shares.items() if len(share))
        lines.append(f"  {rule}: kept {kept.mean():.0%}, of which clean {good[kept].mean():.0%}; of {text}")
    return "\n".join(lines)


def _auroc(confidence: np.ndarray, good: np.ndarray) -> float | None:
    curve = roc(confidence, good, ~good)
    return None if curve is None else curve.auroc


if __name__ == "__main__":
    main()
