"""TensorBoard, Weights & Biases and MLflow, each through its own package: a run's figures there too.

TensorBoard's events are in runs/<run_id>/tensorboard. The others read from their own environment variables where
figures go and as whom (WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME); a resumed run continues
there under its run_id.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Tracker
from harness.errors import UserError, first_line

log = logging.getLogger(__name__)

PROJECT = "bsgal-bench"
PARAMETERS_AT_ONCE = 100  # MLflow's limit
LONGEST_VALUE = 500

Track = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked: its settings, flat, and its folder."""

    run_id: str
    settings: Mapping[str, Any]
    folder: Path


@contextmanager
def tracking(trackers: Sequence[Tracker], run: Tracked) -> Iterator[Track]:
    """Yields a function that takes the metrics of an iteration. A tracker that fails is switched off with a warning.

    Raises UserError for a package that is not installed.
    """
    ways: dict[Tracker, Track] = {}
    with ExitStack() as stack:
        for tracker in trackers:
            package = _package(tracker.value)
            with _given_up(tracker, ways):
                ways[tracker] = stack.enter_context(_quiet_at_the_end(_TRACKERS[tracker](package, run)))

        def track(iteration: int, figures: Mapping[str, float]) -> None:
            for tracker, way in list(ways.items()):
                with _given_up(tracker, ways):
                    way(iteration, figures)

        yield track


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"trackers: {name} is not installed; pip install 'bsgal-bench[{name}]'") from error


@contextmanager
def _given_up(tracker: Tracker, ways: dict[Tracker, Track]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("%s is switched off: %s", tracker.value, first_line(error))
        ways.pop(tracker, None)


@contextmanager
def _quiet_at_the_end(opened: AbstractContextManager[Track]) -> Iterator[Track]:
    """Logs a failure to close, so that it does not hide how the run ended."""
    way = opened.__enter__()
    try:
        yield way
    finally:
        try:
            opened.__exit__(None, None, None)
        except Exception as error:
            log.warning("closing a tracker failed: %s", first_line(error))


@contextmanager
def _tensorboard(tensorboard: Any, run: Tracked) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    with ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def track(iteration: int, figures: Mapping[str, float]) -> None:
            if not writers:  # a resumed run takes back what the lost steps wrote
                events = SummaryWriter(str(run.folder / "tensorboard"), purge_step=iteration)
                writers.append(stack.enter_context(events))
            for name, value in figures.items():
                writers[0].add_scalar(name, value, iteration)

        yield track


@contextmanager
def _wandb(wandb: Any, run: Tracked) -> Iterator[Track]:
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    settings = dict(run.settings)
    started = wandb.init(
        project=project, id=run.run_id, name=run.run_id, config=settings, dir=str(run.folder), resume="allow"
    )
    try:
        yield lambda iteration, figures: started.log(dict(figures), step=iteration)
    finally:
        started.finish()


@contextmanager
def _mlflow(mlflow: Any, run: Tracked) -> Iterator[Track]:
    client, entities = mlflow.MlflowClient(), importlib.import_module("mlflow.entities")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    earlier = client.search_runs([experiment], f"tags.run_id = '{run.run_id}'")
    started = earlier[0] if earlier else client.create_run(experiment, tags={"run_id": run.run_id}, run_name=run.run_id)
    place = started.info.run_id
    if not earlier:
        settings = [entities.Param(key, str(value)[:LONGEST_VALUE]) for key, value in run.settings.items()]
        for start in range(0, len(settings), PARAMETERS_AT_ONCE):
            client.log_batch(place, params=settings[start : start + PARAMETERS_AT_ONCE])

    def track(iteration: int, figures: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        # MLflow's names have no @, as AR@300 has.
        client.log_batch(
            place, [entities.Metric(k.replace("@", "_at_"), float(v), now, iteration) for k, v in figures.items()]
        )

    try:
        yield track
    finally:
        client.set_terminated(place)


_TRACKERS: dict[Tracker, Callable[[Any, Tracked], AbstractContextManager[Track]]] = {
    Tracker.tensorboard: _tensorboard,
    Tracker.wandb: _wandb,
    Tracker.mlflow: _mlflow,
}
