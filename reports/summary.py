"""A report's rows over all its settings (pools, backbones, engines): the groups of a spec.

In the primary column: the mean rank with the critical difference of Nemenyi's test (Demšar 2006, Statistical
comparisons of classifiers over multiple data sets), and against the first baseline the probability of improvement and
the interquartile mean of paired differences (Agarwal et al. 2021, Deep RL at the edge of the statistical precipice).
All by SciPy: the latter paper's package needs equally many runs everywhere, which a lost run breaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reports.collect import Collection
from reports.differences import baseline_row, paired_runs
from reports.spec import Column, Spec
from reports.statistics import RATE

RESAMPLES = 2000
LEAST_RESAMPLES, MOST_DRAWN = 200, 200_000  # of runs in all: hundreds of seeds need no more
SEED = 17
LEAST_FREEDOM = 5  # below it the interval of a probability holds too seldom


@dataclass(frozen=True)
class Estimate:
    """A value and its interval, NaN where unknown."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Standing:
    """A row over all settings. better: how likely a run beats one of the first baseline in its setting; gain: by how
    many points, the mean of the middle half. None for the baseline itself."""

    key: str
    label: str
    rank: float
    better: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True)
class Standings:
    """critical: mean ranks further apart than this differ; p: of all rows being alike (Friedman)."""

    column: Column
    settings: int
    rows: tuple[Standing, ...]
    critical: float
    p: float


def find_standings(spec: Spec, collection: Collection) -> Standings | None:
    """None for a report without two settings in which two of its rows have complete runs."""
    if spec.primary is None or not spec.baselines or len(spec.group_values) < 2:
        return None
    groups = [group for group in spec.group_values if any(row.group == group for row in collection.rows)]
    plain = [row for row in spec.rows if not row.each]
    means = {row.key: _means(collection, row.key, groups, spec.primary) for row in plain}
    whole = {key: values for key, values in means.items() if not np.isnan(values).any()}
    if len(whole) < 2 or len(groups) < 2:
        return None
    from scipy.stats import friedmanchisquare, rankdata

    ranks = rankdata(-np.array(list(whole.values())), axis=0).mean(axis=1)
    p = float(friedmanchisquare(*whole.values()).pvalue) if len(whole) > 2 else math.nan
    rows = [
        Standing(key, spec.label_of(key), float(rank), *_against_baseline(spec, collection, key, groups))
        for key, rank in zip(whole, ranks, strict=True)
    ]
    return Standings(spec.primary, len(groups), tuple(rows), critical_difference(len(whole), len(groups)), p)


def critical_difference(rows: int, settings: int) -> float:
    """Nemenyi's, of mean ranks."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - RATE, rows, np.inf)) * math.sqrt(rows * (rows + 1) / (12 * settings))


def _means(collection: Collection, key: str, groups: Sequence[str], column: Column) -> np.ndarray:
    """(settings,) the row's mean in each, NaN without a complete run."""
    rows = [collection.by_spec_row.get((key, group), []) for group in groups]
    return np.array([collection.complete(found[0].key)[column.key].mean() if found else math.nan for found in rows])


def _against_baseline(
    spec: Spec, collection: Collection, key: str, groups: Sequence[str]
) -> tuple[Estimate | None, Estimate | None]:
    assert spec.primary is not None
    pairs = []
    for group in groups:
        for row in collection.by_spec_row.get((key, group), []):
            other = baseline_row(collection, row, spec.baselines[0])
            if other is None or other is row:
                return None, None
            runs = paired_runs(collection.complete(row.key), collection.complete(other.key))
            pairs.append(np.stack([side[spec.primary.key].to_numpy(float) for side in runs]))
    if any(pair.shape[1] == 0 for pair in pairs):
        return None, None
    better = stratified(pairs, improvement, spec.level)
    enough = sum(pair.shape[1] - 1 for pair in pairs) >= LEAST_FREEDOM
    clipped = np.clip([better.low, better.high], 0, 1).tolist() if enough else []
    return Estimate(better.value, *clipped), stratified(pairs, interquartile_mean, spec.level)


def improvement(pairs: Sequence[np.ndarray]) -> np.ndarray:
    """(...) the share of pairs of runs, ours and a baseline's, of which ours is better, ties half; mean over settings.

    pairs: by setting (..., 2, n), ours and the baseline's.
    """
    from scipy.stats import rankdata

    shares = []
    for pair in pairs:
        n = pair.shape[-1]
        ranks = rankdata(np.concatenate([pair[..., 0, :], pair[..., 1, :]], axis=-1), axis=-1)[..., :n]
        shares.append((ranks.sum(axis=-1) - n * (n + 1) / 2) / n**2)  # Mann and Whitney's U
    mean: np.ndarray = np.mean(shares, axis=0)
    return mean


def interquartile_mean(pairs: Sequence[np.ndarray]) -> np.ndarray:
    """(...) the mean of the middle half of all paired differences."""
    from scipy.stats import trim_mean

    apart = np.concatenate([pair[..., 0, :] - pair[..., 1, :] for pair in pairs], axis=-1)
    middle: np.ndarray = trim_mean(apart, 0.25, axis=-1)
    return middle


def stratified(
    pairs: Sequence[np.ndarray], statistic: Callable[[Sequence[np.ndarray]], np.ndarray], level: float
) -> Estimate:
    """A bootstrap over the seeds of each setting. Few seeds vary too little when drawn from themselves, by
    (n - 1) / n, and tell their spread badly: quantiles are stretched by that and as Student's are against the
    normal's."""
    from scipy.stats import norm, t

    value = float(statistic(pairs))
    freedom = sum(pair.shape[1] - 1 for pair in pairs)
    if not freedom:
        return Estimate(value)
    rng = np.random.default_rng(SEED)
    runs = sum(pair.shape[1] for pair in pairs)
    resamples = max(LEAST_RESAMPLES, min(RESAMPLES, MOST_DRAWN // runs))
    drawn = []
    for pair in pairs:
        seeds = rng.integers(0, pair.shape[1], (resamples, pair.shape[1]))
        drawn.append(np.moveaxis(pair[:, seeds], 0, 1))
    tail = (1 - level) / 2
    quantiles = np.quantile(statistic(drawn), [tail, 1 - tail]) - value
    stretch = math.sqrt(runs / freedom) * float(t.ppf(1 - tail, freedom) / norm.ppf(1 - tail))
    return Estimate(value, *(value + stretch * quantiles).tolist())
