"""How often the reports' 95 % intervals hold the truth: python -m tests.benchmarks.interval_coverage [--tables 1000].

Every table draws 200 validation images and up to ten seeds of two made-up detectors, which differ in how well they find
each category, in which images they find hard, and from seed to seed. Dense: each of 24 categories is in a sixth of the
images, as on the embedded dataset. Sparse: the images are drawn from the 100 real ones of LVIS v1 val, so that most
categories are in one to four; the rare third are those that fewest images hold. The truth is the mean difference over
all tables: what other seeds and other images give. Nothing is evaluated here; a detection's IoU is drawn, and AP and
its derivatives come from `reports.images` as in a report. `percentile` is the same without the corrections: resampling
seeds and images, and taking quantiles.

With --why: what makes the intervals of AP_r of sparse categories somewhat wide. The variance that they say is beside
the one from table to table, and how often they hold the truth, by our degrees of freedom and by Satterthwaite's.
`cut off`: tables in which seeds differ by less than what they find hard explains, so that training's part is cut off at
zero. `uncut` takes what they find hard off the images' part instead, as Hillis does with radiologists and their cases
(2007, A comparison of denominator degrees of freedom methods for multiple observer ROC analysis).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
from scipy.stats import t

from harness.record.matches import THRESHOLDS, RankedMatches
from reports.images import FIGURES, image_influence
from reports.statistics import degrees_of_freedom, differences, image_part, standard_error
from tests.evaluate.made_detections import REAL

IMAGES, SEEDS, LEVEL = 200, (2, 3, 5, 10), 0.95
SHOWN = ("", "r")  # AP and AP_r
RESAMPLES = 1000
WHY = "{:>6} {:>5} {:>8} {:>6} {:>5} {:>7} {:>6} {:>15} {:>7} {:>14} {:>5} {:>14} {:>14}"
ROW = "{:>8} {:>5} {:>6} {:>9} {:>11} {:>8}"
IOUS = np.linspace(0.5, 0.95, THRESHOLDS)
Layout = Callable[[np.random.Generator], np.ndarray]


def dense(rng: np.random.Generator) -> np.ndarray:
    """(categories, images) int64: instances of each category in each image."""
    return (rng.random((24, IMAGES)) < 1 / 6) * rng.integers(1, 4, (24, IMAGES))


def sparse() -> Layout:
    """Images drawn from the real ones, categories from the rarest on."""
    content = json.loads(REAL.read_text())
    images = {image["id"]: place for place, image in enumerate(content["images"])}
    categories = {each: place for place, each in enumerate(sorted({a["category_id"] for a in content["annotations"]}))}
    instances = np.zeros((len(categories), len(images)), np.int64)
    for annotation in content["annotations"]:
        instances[categories[annotation["category_id"]], images[annotation["image_id"]]] += 1
    instances = instances[np.argsort((instances > 0).sum(axis=1), kind="stable")]
    return lambda rng: instances[:, rng.integers(0, len(images), IMAGES)]


def made_matches(rng: np.random.Generator, instances: np.ndarray, by_category: np.ndarray, by_image: np.ndarray):
    """A detection for every instance, whose IoU says how well its category and image are found, and false ones."""
    truth_category, truth_image = np.nonzero(instances)
    count = instances[truth_category, truth_image]
    category, image = np.repeat(truth_category, count), np.repeat(truth_image, count)
    quality = by_category[category] + by_image[image] + rng.normal(0, 0.18, len(category))
    false = rng.poisson(0.05 * instances.size)
    score = np.concatenate([quality + rng.normal(0, 0.15, len(quality)), rng.normal(0.45, 0.2, false)])
    category = np.concatenate([category, rng.integers(0, len(instances), false)])
    image = np.concatenate([image, rng.integers(0, IMAGES, false)])
    hit = np.concatenate([quality, np.zeros(false)]) >= IOUS[:, None]
    order = np.lexsort((-score, category))
    frequency = np.repeat(["r", "c", "f"], -(-len(instances) // 3))[: len(instances)]
    return RankedMatches(
        images=IMAGES,
        image=image[order],
        starts=np.searchsorted(category[order], np.arange(len(instances) + 1)),
        hit=hit[:, order],
        counted=np.ones_like(hit),
        truth_image=truth_image,
        truth_category=truth_category,
        instances=count,
        frequency=np.where(instances.any(axis=1), frequency, ""),
    )


def made_table(rng: np.random.Generator, layout: Layout, seeds: int = SEEDS[-1]) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, figures) differences in percent and their derivatives (seeds, figures, images)."""
    instances = layout(rng)
    found = np.random.default_rng(5).normal([[0.72], [0.75]], 0.12, (2, len(instances)))
    hard = rng.normal(0, 0.08, IMAGES) + rng.normal(0, 0.08, (2, IMAGES))  # for both, and for each detector alone
    ap = np.zeros((2, seeds, len(FIGURES)))
    moved = np.zeros((2, seeds, len(FIGURES), IMAGES))
    for seed in range(seeds):
        for side in (0, 1):
            trained = found[side] + rng.normal(0, 0.02) + rng.normal(0, 0.06, len(instances))
            ap[side, seed], moved[side, seed] = image_influence(made_matches(rng, instances, trained, hard[side]))
    return 100 * (ap[1] - ap[0]), 100 * (moved[1] - moved[0])


def percentile(
    rng: np.random.Generator, images: np.ndarray, values: np.ndarray, moved: np.ndarray
) -> tuple[float, float]:
    """Quantiles over resampled seeds and images; images (RESAMPLES, IMAGES): how much more than once each counts."""
    seeds = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES) / len(values)
    means = (seeds * (values + images @ moved.T)).sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def simulate(name: str, layout: Layout, tables: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = [list(FIGURES).index(subscript) for subscript in SHOWN]
    made = np.full((len(SEEDS), len(places), tables, 5), np.nan)  # mean, low, high; low and high of percentiles
    for table in range(tables):
        values, moved = made_table(rng, layout)
        images = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), RESAMPLES) - 1.0
        for i, n in enumerate(SEEDS):
            pairs = [values[:n, place] for place in places]
            found = differences(pairs, [image_part(moved[:n, place]) for place in places], LEVEL)
            for j, (place, each) in enumerate(zip(places, found, strict=True)):
                assert each is not None
                bounds = percentile(rng, images, values[:n, place], moved[:n, place])
                made[i, j, table] = each.mean, each.low, each.high, *bounds
    truth = made[-1, :, :, 0].mean(axis=1)
    for i, n in enumerate(SEEDS):
        for j, subscript in enumerate(SHOWN):
            low, high, least, most = made[i, j, :, 1:].T
            held, held_plainly = ((a <= truth[j]) & (truth[j] <= b) for a, b in ((low, high), (least, most)))
            words = [f"{held.mean():.1%}", f"{held_plainly.mean():.1%}", f"{np.median(high - low):.1f}"]
            print(ROW.format(name, n, f"AP{subscript}", *words), flush=True)


def simulate_seeds(tables: int, seed: int) -> None:
    """The interval of a report whose runs left no matches."""
    values = np.random.default_rng(seed).normal(1.0, 2.0, (tables, SEEDS[-1]))
    for n in SEEDS:
        found = [each for each in differences(list(values[:, :n]), [None] * tables, LEVEL) if each is not None]
        held = np.mean([each.low <= 1.0 <= each.high for each in found])
        width = np.median([each.high - each.low for each in found])
        print(ROW.format("seeds", n, "", f"{held:.1%}", "", f"{width:.1f}"), flush=True)


def explain(tables: int, seed: int) -> None:
    """Of AP_r, over two and three seeds."""
    place = list(FIGURES).index("r")
    ours = ("variance", "said", "ratio", "freedom", "held", "Satterthwaite's", "cut off", "held where cut")
    print(WHY.format("", "seeds", *ours, "uncut", "held, by uncut", "where cut"))
    for name, layout in (("sparse", sparse()), ("dense", dense)):
        rng = np.random.default_rng(seed)
        made = [made_table(rng, layout, 3) for _ in range(tables)]
        for n in (2, 3):
            print(WHY.format(name, n, *_explained([(v[:n, place], moved[:n, place]) for v, moved in made])), flush=True)


def _explained(made: list[tuple[np.ndarray, np.ndarray]]) -> list[str]:
    values = np.array([each for each, _ in made])
    parts = [image_part(moved) for _, moved in made]
    images, interaction, own = np.array([[part.variance, part.interaction, part.freedom] for part in parts]).T
    n, mean, seeds = values.shape[1], values.mean(axis=1), values.var(axis=1, ddof=1)
    apart = np.abs(mean - mean.mean())

    def held(error: np.ndarray, freedom: np.ndarray) -> np.ndarray:
        return apart <= t.ppf(0.5 + LEVEL / 2, freedom) * error

    error, freedom = standard_error(seeds, n, images, interaction, own)
    share = np.minimum(seeds / n / error**2, 1)
    welch = held(error, 1 / (share**2 / (n - 1) + (1 - share) ** 2 / own))
    whole = np.maximum(images - interaction / n, 0) + seeds / n
    by_ours, by_whole = held(error, freedom), held(np.sqrt(whole), degrees_of_freedom(seeds / n / whole, n, own))
    real, said, cut = mean.var(ddof=1), np.mean(error**2), seeds < interaction
    words = [f"{real:.1f}", f"{said:.1f}", f"{said / real:.2f}", f"{np.median(freedom):.0f}", f"{by_ours.mean():.1%}"]
    words += [f"{welch.mean():.1%}", f"{cut.mean():.0%}", f"{by_ours[cut].mean():.0%}"]
    return [*words, f"{whole.mean() / real:.2f}", f"{by_whole.mean():.1%}", f"{by_whole[cut].mean():.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--why", action="store_true")
    arguments = parser.parse_args()
    if arguments.why:
        explain(arguments.tables, arguments.seed)
        return
    print(ROW.format("", "seeds", "", "held", "percentile", "width"))
    simulate_seeds(10 * arguments.tables, arguments.seed)
    for name, layout in (("dense", dense), ("sparse", sparse())):
        simulate(name, layout, arguments.tables, arguments.seed)


if __name__ == "__main__":
    main()
