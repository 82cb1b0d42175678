"""`harness score` and `harness embed`: an offline stage by a finished run's weights, and its file.

The stage is a run of its own, as a sweep would have it: complete ones are not repeated, interrupted ones resume.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import methods
from harness.commands.hidden_truth import rocs_by_kind
from harness.compose import Composed
from harness.config import RunConfig, Stage, StageConfig
from harness.data.dataset import Dataset
from harness.data.pool.pool import InstancePool
from harness.errors import UserError
from harness.record.decisions import Roc
from harness.record.files import write_atomically
from harness.record.record import Status, read_record
from harness.run.finished_run import FinishedRun, finished_run
from harness.run.run import execute_composed
from harness.stages.stage import FILES, write_ranking
from harness.training.checkpoint import has_final
from methods.filters import listed_scores


def stage_command(
    runs: Path,
    run: str,
    stage: StageConfig,
    out: Path | None = None,
    pool: str | None = None,
    gpu: bool = False,
    trusted: Sequence[Path] = (),
) -> str:
    """Carries a stage out by a run's final weights, on the run's own pool without `pool`; a few lines to print.

    `out` gets a copy of what it leaves. Scores of a pool whose truth is known get it as a column `kind` there, and a
    curve beside it as PNG. Raises UserError.
    """
    finished = finished_run(runs, run, trusted)
    config = _config(finished, stage, pool, gpu)
    outcome = execute_composed(Composed(config, {}))
    record = read_record(runs, outcome.run_id)
    if outcome.status is not Status.complete or record is None:
        raise UserError(f"{outcome.run_id}: {outcome.message or 'not complete'}; run the same command again to resume")
    made = runs / outcome.run_id / FILES[stage.name]
    lines = [f"{record.statistics['rows']} instances, {record.statistics['without']} of them without a result: {made}"]
    if stage.name is Stage.score:
        return "\n".join([*lines, *_judged(made, out, Dataset(config.data))])
    if out is not None:
        _copy(made, out)
    return "\n".join(lines)


def _config(finished: FinishedRun, stage: StageConfig, pool: str | None, gpu: bool) -> RunConfig:
    """The stage's configuration: the run's, with its weights."""
    own = finished.config
    trained = has_final(finished.folder / "checkpoint")
    if not trained and not (own.weights and not own.train):
        raise UserError(f"{finished.record.run_id} left no weights in {finished.folder / 'checkpoint'}")
    return dataclasses.replace(
        own,
        name="",
        stage=stage,
        init_from=finished.record.run_id if trained else None,
        weights=None if trained else own.weights,
        needed_runs=[],
        method=methods.find("baseline")(),
        method_paths=[],
        runs_dir=str(finished.runs),
        data=own.data if pool is None else dataclasses.replace(own.data, pool=pool),
        launcher=dataclasses.replace(own.launcher, gpus=int(gpu), nodes=1),
    )


def _copy(made: Path, out: Path) -> None:
    with write_atomically(out) as temporary:
        shutil.copyfile(made, temporary)


def _judged(made: Path, out: Path | None, dataset: Dataset) -> list[str]:
    """How well a ranking tells clean instances from faulty ones, where that is known; writes `out`."""
    pool = dataset.pool
    scores, kinds = listed_scores(made, pool), dataset.kinds(pool)
    listed = _rows_listed(made, pool)
    if out is not None:
        write_ranking(out, pool, listed, scores[listed], kinds)
    if kinds is None:
        return []
    curves = rocs_by_kind(scores[listed], kinds[listed])
    if not curves:
        return ["the instances with a score are all clean or all faulty, so there is no AUROC"]
    within = rocs_by_kind(within_categories(scores[listed], pool.categories[listed]), kinds[listed])
    lines = [
        f"AUROC of clean against {name}: {curve.auroc:.3f}, within categories {within[name].auroc:.3f}"
        for name, curve in curves.items()
    ]
    if out is not None:
        _draw_curves(out.with_suffix(".png"), curves)
        lines.append(f"curve: {out.with_suffix('.png')}")
    return lines


def _rows_listed(ranking: Path, pool: InstancePool) -> np.ndarray:
    """Rows of a pool that a ranking lists, with or without a score."""
    table = pd.read_csv(ranking, usecols=["category", "path"])
    listed = set(zip(table["category"].tolist(), table["path"].tolist(), strict=True))
    pairs = zip(pool.categories.tolist(), pool.column("path").tolist(), strict=True)
    return np.flatnonzero([pair in listed for pair in pairs])


def within_categories(scores: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """(N,) each score's rank among its category's, in 0..1; NaN stay. What a filter by share per category goes by."""
    ranks = pd.Series(scores).groupby(categories).rank(pct=True)
    return ranks.to_numpy()


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
