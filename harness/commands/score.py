"""Ranking a pool offline: the contribution of one-instance batches at a run's frozen weights.

Every instance is pasted alone into the same few training images, with the same draws of size and place, so that
scores differ by the instance. The reference batch of a category is a few training images that hold it.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from harness.commands.hidden_truth import rocs_by_kind
from harness.data.dataset import Dataset
from harness.data.pool.pool import InstancePool
from harness.data.sample import Batch, Sample, View
from harness.data.seeding import generator
from harness.data.training import TrainingData
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.record.decisions import Roc
from harness.record.files import write_atomically
from harness.run.finished_run import finished_run
from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from harness.training.torch_settings import prepare_torch
from methods.bsgal import BSGAL, Estimator, ReferencePolicy
from methods.contract import DatasetFacts, Draw, ImageFacts, LossKind, Method, Pool, Proposals, Scope, ViewKind

CLASSIFICATION = LossKind.CLASSIFICATION
POSITION = StepPosition(seed=0, iteration=0, total_iterations=1)  # one for all, so that every draw is the same


@dataclass(frozen=True)
class ScoreOptions:
    """hosts: training images that each instance is pasted into. references: images of a reference batch, and
    reference_policy what they hold: the instance's own category (drawn_class), or whatever BSGAL's other policies draw.

    per_category: score at most so many instances of each category, drawn at random; all without it. probe_lr: rate of
    the loss difference's SGD step.
    """

    estimator: Estimator = Estimator.gradient
    scope: Scope = Scope.all
    hosts: int = 2
    references: int = 8
    reference_policy: ReferencePolicy = ReferencePolicy.drawn_class
    per_category: int | None = None
    probe_lr: float = 1.0e-4
    seed: int = 0


@dataclass
class _OneInstance(Method):
    """Pastes the row that it is told, and takes reference images of that row's category or by another policy."""

    row: int = 0
    policy: ReferencePolicy = ReferencePolicy.drawn_class

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        return Draw(rows=np.array([self.row], np.int64))

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int | tuple[int, ...] | None:
        if self.policy is not ReferencePolicy.drawn_class:
            return BSGAL(reference_policy=self.policy).reference(draw, dataset, rng)
        images = dataset.images_of(int(draw.categories[0]))
        return int(rng.choice(images)) if len(images) else None


def score_pool(
    engine: Engine, data: TrainingData, pool: InstancePool, rows: np.ndarray, options: ScoreOptions
) -> np.ndarray:
    """(M,) contribution of each row: a cosine by gradient, or the drop of the reference loss by loss difference.

    NaN where the instance could not be read or placed, or its category has no reference image. `data` draws by
    a method that pastes the row it is told (`scoring_data`).
    """
    assert isinstance(data.method, _OneInstance)
    scores = np.full(len(rows), np.nan)
    categories = pool.categories[rows]
    with tqdm(total=len(rows), desc="score", unit="instance", disable=None) as bar:
        for category in np.unique(categories):
            places = np.flatnonzero(categories == category)
            data.method.row = int(rows[places[0]])
            references = Batch([data[position] for position in range(options.references)]).reference
            scorer = _CategoryScorer(engine, references, options)
            for place in places:
                data.method.row = int(rows[place])
                hosts = [data[position] for position in range(options.hosts)]
                scores[place] = scorer([sample for sample in hosts if sample.augmented is not None])
                bar.update()
    return scores


class _CategoryScorer:
    """Scores instances of one category against its reference images, whose gradient or loss is taken once."""

    def __init__(self, engine: Engine, references: Sequence[View], options: ScoreOptions) -> None:
        self.engine, self.options = engine, options
        self.device = next(engine.module.parameters()).device
        self.references = [view.to(self.device) for view in references]
        if not self.references:
            return
        step = self._step([Sample(0, 0, view, None, (view,)) for view in self.references])
        by_gradient = options.estimator is Estimator.gradient
        loss = step.losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=by_gradient).total(
            CLASSIFICATION
        )
        self.before = loss.detach()
        if by_gradient:
            self.gradient = step.gradient(loss, options.scope, keep_graph=False)
            self.buffer = torch.empty_like(self.gradient)

    def __call__(self, hosts: Sequence[Sample]) -> float:
        if not hosts or not self.references:
            return float("nan")
        return float(torch.stack([self._score(sample) for sample in hosts]).mean())

    def _score(self, host: Sample) -> Tensor:
        # The host stands first; the other samples only bring their reference images along.
        others = [Sample(0, 0, view, None, (view,)) for view in self.references[1:]]
        first = dataclasses.replace(Batch([host]).to(self.device).samples[0], references=(self.references[0],))
        step = self._step([first, *others])
        loss = step.losses(ViewKind.AUGMENTED, backbone_in_eval=True, images=1).pasted_total(CLASSIFICATION)
        if self.options.estimator is Estimator.gradient:
            step.gradient(loss, self.options.scope, out=self.buffer, keep_graph=False)
            return torch.cosine_similarity(self.gradient, self.buffer, dim=0)
        after = step.losses_after_step(
            ViewKind.AUGMENTED, self.options.probe_lr, Proposals.GROUND_TRUTH, loss=loss
        ).total(CLASSIFICATION)
        return self.before - after

    def _step(self, samples: list[Sample]) -> TrainingStep:
        return TrainingStep(self.engine, Batch(samples), POSITION, Ranks())


def scoring_data(dataset: Dataset, pool: InstancePool, options: ScoreOptions) -> TrainingData:
    """Training samples into which one named instance is pasted."""
    return TrainingData(dataset, options.seed, _OneInstance(policy=options.reference_policy), pool)


def score_command(
    runs: Path,
    run: str,
    out: Path,
    pool: str | None = None,
    options: ScoreOptions | None = None,
    gpu: bool = False,
    trusted: Sequence[Path] = (),
) -> str:
    """Scores a pool (the run's own without `pool`) by a run's final weights and writes the ranking.

    `out` is a CSV, best first: rank, category, path, score and, where the pool's truth is known, kind; then a curve
    beside it as PNG. `clip_filter` reads it as `method.scores`. Returns a few lines to print. Raises UserError.
    """
    options = options or ScoreOptions()
    finished = finished_run(runs, run, trusted)
    config = finished.config
    dataset = finished.dataset if pool is None else Dataset(dataclasses.replace(config.data, pool=pool))
    instances = dataset.pool
    if "path" not in instances.columns:
        raise UserError("the pool has no column `path`, so its ranking could not be read again")
    prepare_torch(config)
    engine = finished.engine(torch.device("cuda" if gpu else "cpu"))
    rows = _chosen(instances, options)
    scores = score_pool(engine, scoring_data(dataset, instances, options), instances, rows, options)
    kinds = dataset.kinds(instances)
    _write_ranking(out, instances, rows, scores, kinds)
    lines = [f"{len(rows)} instances scored, {int(np.isnan(scores).sum())} without a score: {out}"]
    curves = rocs_by_kind(scores, kinds[rows]) if kinds is not None else {}
    if kinds is not None and curves:
        within = rocs_by_kind(within_categories(scores, instances.categories[rows]), kinds[rows])
        lines += [
            f"AUROC of clean against {name}: {curve.auroc:.3f}, within categories {within[name].auroc:.3f}"
            for name, curve in curves.items()
        ]
        _draw_curves(out.with_suffix(".png"), curves)
        lines.append(f"curve: {out.with_suffix('.png')}")
    elif kinds is not None:
        lines.append("the instances with a score are all clean or all faulty, so there is no AUROC")
    return "\n".join(lines)


def within_categories(scores: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """(N,) each score's rank among its category's, in 0..1; NaN stay. What a filter by share per category goes by."""
    ranks = pd.Series(scores).groupby(categories).rank(pct=True)
    return ranks.to_numpy()


def _chosen(pool: InstancePool, options: ScoreOptions) -> np.ndarray:
    if options.per_category is None:
        return np.arange(len(pool))
    rng = generator(options.seed, "score/rows")
    parts = [rng.permutation(pool.rows_of(int(c)))[: options.per_category] for c in pool.present_categories]
    return np.sort(np.concatenate(parts))


def _write_ranking(
    out: Path, pool: InstancePool, rows: np.ndarray, scores: np.ndarray, kinds: np.ndarray | None
) -> None:
    paths = pool.column("path")
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores))[::-1]
    with write_atomically(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "category", "path", "score", *(["kind"] if kinds is not None else [])])
        for rank, place in enumerate(order, 1):
            row, score = rows[place], scores[place]
            shown = "" if np.isnan(score) else repr(float(score))
            truth = [kinds[row]] if kinds is not None else []
            writer.writerow([rank, int(pool.categories[row]), paths[row], shown, *truth])


def _draw_curves(path: Path, curves: dict[str, Roc]) -> None:
    """The ROC of clean instances against each kind of fault."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for kind, curve in curves.items():
        axes.plot(curve.bad, curve.good, label=f"{kind} {curve.auroc:.2f}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.set(xlabel="share of the faulty kept", ylabel="share of the clean kept", xlim=(0, 1), ylim=(0, 1))
    axes.legend(title="clean against (AUROC)", frameon=False)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
