"""What the method `confidence` leaves of a pool by a finished run of stage=score: `docs/explanation/selection.md`.

    python -m tests.benchmarks.confidence_kept SCORE_RUN... [--runs runs]

Nothing is trained. Truth is that of the embedded dataset's pools. For comparison, what would be left if each category
were asked for two groups by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from harness.compose import compose
from harness.config import Stage
from harness.data.dataset import Dataset
from harness.data.seeding import generator
from harness.errors import UserError
from harness.record.record import read_record
from harness.stages.stage import FILES
from methods.confidence import Confidence, log_odds
from methods.contract import Pool
from methods.filters import listed_scores
from methods.two_groups import in_higher_group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", help="a run of stage=score on the embedded dataset")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    for run in options.run:
        record = read_record(options.runs, run)
        if record is None:
            raise UserError(f"{run} has left no record in {options.runs}")
        print(f"{run}: {report(str(record.settings['data.pool']), options.runs / run / FILES[Stage.score])}")


def report(pool_name: str, ranking: Path) -> str:
    dataset = Dataset(compose(["recipe=mini_paste", f"data.pool={pool_name}"]).config.data)
    pool = dataset.pool
    kept = Confidence(scores=str(ranking)).prepare(pool, dataset.facts, generator(0, "unused"))
    odds, alone = log_odds(listed_scores(ranking, pool)), np.zeros(len(pool), bool)
    for category in pool.present_categories:
        own = pool.rows_of(int(category))
        alone[own] = in_higher_group(odds[own], pool.categories[own])
    kinds, frequency = dataset.kinds(pool), dataset.train.frequency[pool.categories]
    assert kinds is not None
    stay = {"all categories together": np.isin(_names(pool), _names(kept)), "each category by itself": alone}
    return "\n".join([pool_name, *(f"  {rule}: {_shares(rows, kinds, frequency)}" for rule, rows in stay.items())])


def _shares(stays: np.ndarray, kinds: np.ndarray, frequency: np.ndarray) -> str:
    text = f"kept {stays.mean():.0%}, of which clean {(kinds[stays] == 'clean').mean():.0%}; of"
    shares = {
        f"{kind} {letter}": stays[(kinds == kind) & (frequency == letter)] for kind in set(kinds) for letter in "rcf"
    }
    return f"{text} " + ", ".join(f"{name} {shares[name].mean():.0%}" for name in sorted(shares) if len(shares[name]))


def _names(pool: Pool) -> np.ndarray:
    """(N,) text: the category and the path of every row."""
    return np.char.add(np.char.add(pool.categories.astype(str), "/"), np.asarray(pool.column("path")).astype(str))


if __name__ == "__main__":
    main()
