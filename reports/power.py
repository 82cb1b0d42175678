"""`harness power`, and the line below a table: what a number of seeds can show, by the noise in the records.

Noise is that of paired differences in the primary column, seeds' and images' apart (`reports.statistics`): the seeds'
part shrinks with more seeds, the validation images' does not. A difference counts as shown when one test at 5 % finds
it in four cases of five; stars, which are adjusted over rows, ask for more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reports.collect import collect
from reports.differences import find_differences
from reports.spec import Column, Spec, read_spec
from reports.statistics import RATE, Difference, degrees_of_freedom

POWER = 0.8
WANTED = 1.0  # points of AP
MOST_SEEDS = 200  # nobody runs more
MANY = 1e6  # degrees of freedom of the images' part


@dataclass(frozen=True)
class Noise:
    """Of paired differences in one column: variance between single seeds with its degrees of freedom, variance of a
    mean by the validation images, None if no run has left its matches, and the seeds that most differences have."""

    column: Column
    seeds: float
    freedom: int
    images: float | None
    usual: int


def noise_of(column: Column, differences: Iterable[Difference]) -> Noise | None:
    """Pooled over the differences that have two seeds or more; None without one."""
    known = [each for each in differences if each.n > 1]
    freedom = sum(each.n - 1 for each in known)
    if not known:
        return None
    over_images = [each.images for each in known if each.over_images]
    seeds = sum((each.n - 1) * each.seeds for each in known) / freedom
    usual = int(np.median([each.n for each in known]))
    return Noise(column, seeds, freedom, max(float(np.mean(over_images)), 0.0) if over_images else None, usual)


def report_noise(spec: Spec, runs: Path) -> Noise | None:
    """Of a report's differences to its first baseline; None if no two seeds of a row are complete."""
    if spec.primary is None or not spec.baselines:
        return None
    found = find_differences(spec, collect(spec, runs))
    return noise_of(spec.primary, [each for key, each in found.items() if key[1:] == first_of(spec)])


def first_of(spec: Spec) -> tuple[str, str]:
    """The keys of the first baseline and of the primary column."""
    assert spec.primary is not None
    return spec.baselines[0], spec.primary.key


def smallest_shown(noise: Noise, seeds: int) -> float:
    """The smallest difference that a paired t-test over so many seeds shows with a power of `POWER`."""
    from scipy.special import nctdtrinc, stdtrit

    images = noise.images or 0.0
    error = math.sqrt(noise.seeds / seeds + images)
    if error == 0:
        return 0.0
    share = np.array([noise.seeds / seeds / error**2])
    freedom = float(degrees_of_freedom(share, seeds, np.array([MANY]))[0])
    critical = stdtrit(freedom, 1 - RATE / 2)
    return error * float(nctdtrinc(freedom, 1 - POWER, critical))


def seeds_needed(noise: Noise, difference: float = WANTED) -> int | None:
    """The fewest seeds that show it; None if `MOST_SEEDS` do not."""
    if smallest_shown(noise, MOST_SEEDS) > difference:
        return None
    low, high = 1, MOST_SEEDS  # low does not suffice, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if smallest_shown(noise, middle) <= difference else (middle, high)
    return high


def sentence(noise: Noise) -> str:
    """What these records' noise lets seeds show."""
    spread = f"{math.sqrt(noise.seeds):.1f} between seeds ({noise.freedom} degrees of freedom)"
    if noise.images is not None:
        spread += f" and {math.sqrt(noise.images):.1f} by the validation images"
    needed = seeds_needed(noise)
    name, wanted = noise.column.plain, f"+{WANTED:g} {noise.column.plain}"
    if needed is not None:
        reach = f"{wanted} needs {needed} seeds"
    elif noise.images and smallest_shown(Noise(noise.column, 0.0, 1, noise.images, 2), MOST_SEEDS) > WANTED:
        reach = f"no number of seeds can show {wanted} on these validation images"
    else:
        reach = f"{wanted} needs more than {MOST_SEEDS} seeds"
    return (
        f"Power: a paired difference in {name} has a standard deviation of {spread}. So {noise.usual} seeds show a "
        f"difference of {smallest_shown(noise, noise.usual):.1f} or more in four cases of five (one test at "
        f"{RATE:.0%}); {reach}."
    )


def power_command(name: str, runs: Path, seeds: Iterable[int] = (2, 3, 5, 10, 20)) -> list[str]:
    """The lines that `harness power` prints. Raises ValueError for a report or folder that is not there, and where no
    row has two complete seeds beside the baseline's."""
    spec = read_spec(name)
    if not runs.is_dir():
        raise ValueError(
            f"the folder of runs '{runs}' does not exist; run a sweep first, or name the folder with --runs"
        )
    noise = report_noise(spec, runs)
    if noise is None:
        raise ValueError(
            f"in {runs}, no row of the report {spec.name} has two complete seeds that its baseline has too"
        )
    table = [f"{n:>6} seeds show {smallest_shown(noise, n):6.1f} {noise.column.plain} or more" for n in seeds]
    return [sentence(noise), *table]
