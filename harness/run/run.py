"""One run, end to end: config -> data -> detector -> train -> evaluate -> record."""

from __future__ import annotations

import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from harness.compose import Composed, compose
from harness.config import RunConfig, Stage
from harness.console import TrainingProgress, counting, flat_metrics, run_log
from harness.data.dataset import Dataset
from harness.data.pool.pool import InstancePool
from harness.data.testing import evaluation_images, evaluation_indices
from harness.data.training import TrainingData, training_loader
from harness.engine import create, engines_with
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.evaluate import Detections, Evaluation
from harness.record.decision_log import drop_logs, write_decisions
from harness.record.decisions import decision_statistics
from harness.record.files import drop_unfinished, share_with_group, write_atomically
from harness.record.learning_curve import read_curve
from harness.record.record import Record, Status, read_record, record_as_found, write_record
from harness.run.claim import Claim, ClaimLost, leave_words, spent, take
from harness.run.evaluation import Evaluating, in_percent
from harness.run.evaluation_shards import drop_shards
from harness.run.failures import PeerLost, as_user_error, kind_of, message_of, of_another_rank
from harness.run.finished_run import in_full_precision
from harness.run.gallery import write_pictures
from harness.run.identity import fingerprints, identify
from harness.run.method_card import method_card
from harness.run.needed_files import check_needed_files
from harness.run.on_the_way import OnTheWay
from harness.run.outcome import Outcome
from harness.run.provenance import provenance
from harness.run.signals import Interrupted, StopFlag
from harness.run.trackers import Tracked, tracking
from harness.run.unmeant import refuse_unmeant
from harness.stages.chunks import ChunkedWork, drop_chunks
from harness.stages.stage import carry_out
from harness.training import checkpoint
from harness.training.distributed import Ranks, join, leave
from harness.training.loop import Trainer
from harness.training.pace import peak_memory_mb
from harness.training.torch_settings import prepare_torch
from harness.weights.classes import extend_classifier
from methods.contract import Start

log = logging.getLogger(__name__)


# Beside the weights, what a run that has been trained keeps for its record.
OF_TRAINING = {"iteration", "train_seconds", "step_seconds", "skipped", "skipped_share"}


class Waiting(Exception):
    """A run that this one starts from, or reads, did not complete."""


def execute(overrides: Sequence[str]) -> Outcome:
    """Composes and executes one run, or finds that it is complete or held by another process.

    Raises UserError for a configuration or data that the user must fix; later failures are recorded.
    """
    return execute_composed(compose(overrides))


def execute_composed(composed: Composed) -> Outcome:
    refuse_unmeant(composed)
    config = composed.config
    prepare_torch(config)
    run_id, runs = identify(config), Path(config.runs_dir)
    # Any number of ranks evaluates: what is trained already is the same for all.
    trains = config.train and config.stage.name is Stage.none and not checkpoint.has_final(runs / run_id / "checkpoint")
    expected = config.schedule.ranks if trains else None
    ranks = join(expected, config.launcher.gpus > 0, config.launcher.rank_patience_minutes)
    try:
        share_with_group(runs)
        earlier = read_record(runs, run_id)
        if earlier is not None and earlier.status is Status.complete:
            if ranks.is_main:
                _tidy(runs / run_id)  # where a life was killed between its record and this
            return Outcome(run_id, Status.complete, "complete already")
        claim = take(runs / run_id) if ranks.is_main else None
        generation = ranks.broadcast(claim.generation if claim is not None else None)
        if generation is None:
            return Outcome(run_id, None, "another process is at it")
        with ExitStack() as stack:
            if claim is not None:
                stack.enter_context(claim)
            stack.enter_context(run_log(runs / run_id / "log.txt", ranks.is_main))
            stop = stack.enter_context(StopFlag())
            return _Run(composed, run_id, ranks, claim, generation, stop).execute()
    finally:
        leave()


@dataclass
class _Run:
    composed: Composed
    run_id: str
    ranks: Ranks
    claim: Claim | None
    generation: int  # of the claim that rank 0 holds
    stop: StopFlag
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.config: RunConfig = self.composed.config
        self.dataset = Dataset(self.config.data)
        self.runs = Path(self.config.runs_dir)
        self.folder = self.runs / self.run_id
        self.origin = provenance()  # now, since sources that are edited while it runs are not what it is made from
        if self.config.launcher.gpus > 0:
            if not torch.cuda.is_available():
                raise UserError("launcher.gpus asks for a GPU, but torch finds none; set launcher.gpus=0 for the CPU")
            self.device = torch.device("cuda", self.ranks.local_rank)
        else:
            self.device = torch.device("cpu")

    def execute(self) -> Outcome:
        """Runs to the end and records how it ended."""
        log.info("run %s", self.run_id)
        tracked = Tracked(self.run_id, self.composed.settings, self.folder)
        try:
            with tracking(self.config.trackers if self.ranks.is_main else [], tracked) as self.track:
                record = self._train_and_evaluate()
        except Waiting as waiting:
            record = self._ended(Status.waiting, failure={"kind": "waiting", "message": str(waiting)})
        except Interrupted as interrupted:
            reason = self.stop.reason or "a signal to another rank"
            log.info("stopped by %s: %s", reason, interrupted)
            record = self._ended(Status.interrupted, failure={"kind": "stopped", "message": reason})
        except ClaimLost as lost:
            return Outcome(self.run_id, None, str(lost))
        except Exception as error:
            other = of_another_rank(error, self.folder, self.generation, self.ranks.rank)
            if isinstance(other, PeerLost):
                return self._stopped_by_a_peer(other)
            self._record_failure(other or error)
            raise as_user_error(other or error, self.folder) from error
        if self.ranks.is_main:
            self._write(record)
            if record.status is Status.complete:
                _tidy(self.folder)
        message = record.failure["message"] if record.failure else ""
        return Outcome(self.run_id, record.status, message)

    def _train_and_evaluate(self) -> Record:
        self._write_config()
        self.ranks.first_on_each_node(lambda: (self.dataset.train, self.dataset.val))
        parents = self._parents()
        engine = self._engine()
        if self.config.stage.name is not Stage.none:
            return self._carry_out(engine)
        trained = self._trained()
        cost: dict[str, float] = {}
        statistics: dict[str, Any] = {}
        if self.config.train:
            if trained is None:
                trained = self._train(engine, parents)
            statistics = decision_statistics(self.folder)
            statistics |= {"skipped": trained["skipped"], "skipped_share": trained["skipped_share"]}
            cost = {
                **_step_cost(trained, self.device),
                "train_seconds": trained["train_seconds"],
                "iterations": trained["iteration"],
                "steps_per_second": trained["iteration"] / max(trained["train_seconds"], 1e-9),
            }
            engine.module.load_state_dict(trained.get("model_ema", trained["model"]))
        begun = time.time()
        metrics = self._evaluate(engine)
        cost |= {"evaluation_seconds": time.time() - begun, **_peak_memory(self.device)}
        if self.ranks.is_main:
            self.track(int(cost.get("iterations", 0)), flat_metrics(metrics))
            self._write_pictures(engine)
        curve = read_curve(self.folder)
        if curve:
            curve.append({"iteration": int(cost["iterations"]), **metrics})
        return self._ended(Status.complete, metrics=metrics, statistics=statistics, curve=curve, cost=cost)

    def _carry_out(self, engine: Engine) -> Record:
        """An offline stage instead of training and evaluation."""
        begun = time.time()
        check = self.claim.check if self.claim else lambda: None
        work = ChunkedWork(self.ranks, self.folder, self.stop.is_set, check)
        statistics = carry_out(self.config, self.dataset, engine, work)
        if statistics is None:
            raise Interrupted(f"the stage {self.config.stage.name.name} is not through its rows")
        cost = {"stage_seconds": time.time() - begun, "iterations": statistics.get("rows", 0)}
        return self._ended(Status.complete, statistics=statistics, cost=cost | _peak_memory(self.device))

    # ---------------------------------------------------------------------------------------------------- its parts

    def _trained(self) -> dict[str, Any] | None:
        """What training left; None if it has not finished, or if what it left is damaged."""
        try:
            trained = checkpoint.load_final(self.folder / "checkpoint", self.device)
        except UserError as error:
            log.warning("%s; this run resumes from the checkpoint before", error)
            return None
        if trained is not None and not trained.keys() >= OF_TRAINING:
            log.warning("the final weights were written by something else; this run resumes from the checkpoint before")
            return None
        return trained

    @cached_property
    def pool(self) -> InstancePool:
        """The pool that the method prepared."""
        return self.dataset.prepared_pool(self.config.method, self.config.seed)

    def _parents(self) -> list[Record]:
        """The records of the runs that this one starts from or reads; raises Waiting when one is not complete."""
        wanted = [*([self.config.init_from] if self.config.init_from else []), *self.config.needed_runs]
        found = []
        for name in wanted:
            record = record_as_found(self.runs, name)
            if record is None or record.status is not Status.complete:
                state = record.status.value if record else "not started"
                raise Waiting(f"{name} is {state}; `harness retry` or `harness sweep` runs it, then this one")
            found.append(record)
        check_needed_files(self.config, found)
        return found

    def _engine(self) -> Engine:
        torch.manual_seed(self.config.seed)
        config = self.config if self.config.stage.name is Stage.none else in_full_precision(self.config)
        engine = create(config, self.dataset.num_classes, self.dataset.train.image_counts)
        engine.module.to(self.device)
        missing = self.config.method.required() - engine.capabilities
        if missing:
            names = ", ".join(sorted(need.value for need in missing))
            able = ", ".join(engines_with(self.config.method.required())) or "none that is installed"
            raise UserError(
                f"method {self.composed.settings['method']} needs {names}, which this model of engine "
                f"{self.config.engine.name} does not have; engines that do: {able}"
            )
        if self.config.init_from:
            weights = checkpoint.load_final(self.runs / self.config.init_from / "checkpoint", self.device)
            if weights is None:
                raise UserError(f"{self.config.init_from} left no weights; delete its record and run it again")
            self._take_over(engine, weights["model"])
        elif self.config.weights:
            log.info("%s", engine.load(Path(self.config.weights), averaged=not self.config.train))
        elif getattr(self.config.backbone, "pretrained", None) and not self.config.backbone.weights:
            name, origin = self.composed.settings["backbone"], self.config.backbone.pretrained
            log.warning(
                "backbone=%s starts from random weights; the papers start from %s: backbone.weights=FILE", name, origin
            )
        return engine

    def _take_over(self, engine: Engine, parent: dict[str, torch.Tensor]) -> None:
        """Loads a parent's weights. Raises UserError if they belong to another detector."""
        state, sentence = extend_classifier(parent, engine.module.state_dict())
        if sentence and not self.config.train:
            raise UserError(
                f"{self.config.init_from} has fewer classes than data.num_classes, and train=false cannot add any"
            )
        try:
            engine.module.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[1:2] or [str(error)]
            raise UserError(f"{self.config.init_from} is a run of another detector: {reason[0].strip()}") from error
        if sentence:
            log.info("%s: %s", self.config.init_from, sentence)

    def _train(self, engine: Engine, parents: list[Record]) -> dict[str, Any]:
        """The final weights and what goes with them. Raises Interrupted."""
        config, method = self.config, self.config.method
        data = TrainingData(self.dataset, config.seed, method, self.pool)
        start = Start(
            total_iterations=config.schedule.iterations,
            device=self.device,
            images_per_rank=config.schedule.batch_per_rank,
            dataset=self.dataset.facts,
            pool=self.pool,
            needed=tuple(
                asdict(parent) for parent in parents if parent.run_id in config.needed_runs and not parent.stage
            ),
        )
        try:
            method.start(start)
        except ValueError as error:
            raise UserError(f"method {self.composed.settings['method']}: {error}") from error
        check = self._check
        on_the_way = OnTheWay(self.folder, self.ranks, config.evaluation.best, self._figures(engine), check)
        trainer = Trainer(config, engine, method, self.ranks, self.folder, self.stop.is_set, check, on_the_way)
        if trainer.resume():
            log.info("resuming from step %d", trainer.iteration)
        on_the_way.forget_after(trainer.iteration)
        ranks, policies = self.ranks, trainer.policies
        batches = training_loader(data, config.schedule, trainer.iteration, ranks.rank, ranks.world, policies)
        total = config.schedule.iterations
        with TrainingProgress(total, trainer.iteration, self.ranks.is_main, self.track) as progress:
            on_the_way.told = progress.evaluated
            if not trainer.run(batches, progress):
                raise Interrupted(f"training stopped at step {trainer.iteration}")
        trainer.decisions.save()
        content = trainer.final_weights() | trainer.seconds()
        content |= {"skipped": trainer.skips.by_fault(), "skipped_share": trainer.skips.share}
        self.ranks.barrier()
        if self.ranks.is_main:
            check()
            write_decisions(self.folder, self.ranks.world, self.dataset.clean_rows(self.pool))
            checkpoint.save_final(self.folder / "checkpoint", content)
        self.ranks.barrier()
        return content

    def _evaluate(self, engine: Engine) -> dict[str, dict[str, float | None]]:
        found = self._found(engine, self.folder / "evaluation")
        if found is None:
            return {}
        self._check()
        evaluation, detections = found
        evaluation.write(self.folder)
        if detections is not None:
            detections.write_parquet(self.folder / "detections.parquet")
        return in_percent(evaluation.metrics)

    def _figures(self, engine: Engine) -> Callable[[Path], dict[str, dict[str, float | None]]]:
        """A function that evaluates and keeps only the metrics."""

        def figures(shards: Path) -> dict[str, dict[str, float | None]]:
            found = self._found(engine, shards)
            return in_percent(found[0].metrics) if found else {}

        return figures

    def _found(self, engine: Engine, shards: Path) -> tuple[Evaluation, Detections | None] | None:
        config = self.config.evaluation
        indices = evaluation_indices(self.dataset, config.limit, self.ranks.rank, self.ranks.world)
        with counting(len(indices), "evaluate", self.ranks.is_main) as bar:
            evaluating = Evaluating(config, self.dataset.val, self.ranks, self.stop.is_set, self._check, bar.update)
            return evaluating.run(engine, partial(evaluation_images, self.dataset), indices, shards)

    def _check(self) -> None:
        """Raises ClaimLost if another process has taken the run over."""
        if self.claim:
            self.claim.check()

    def _write_pictures(self, engine: Engine) -> None:
        """Pictures explain a result and are not part of it: a run without them is complete."""
        config = self.config
        try:
            pool = self.pool if config.train else None
            images = len(evaluation_indices(self.dataset, config.evaluation.limit))
            write_pictures(self.folder, engine, self.dataset, pool, config.seed, images)
        except (OSError, UserError) as error:
            log.warning("no images for reports: %s", error)

    # ------------------------------------------------------------------------------------------------ what is left

    def _write_config(self) -> None:
        if self.ranks.is_main:
            with write_atomically(self.folder / "config.yaml") as temporary:
                OmegaConf.save(OmegaConf.structured(self.config), temporary)

    def _ended(self, status: Status, **content: Any) -> Record:
        now = time.time()
        record = Record(
            run_id=self.run_id,
            name=self._name(),
            status=status,
            settings=self.composed.settings,
            provenance=self.origin | self._made_of(),
            started=self.started,
            ended=now,
            **content,
        )
        record.cost |= spent(self.folder, now - self.started)
        record.cost["gpus"] = float(self.config.launcher.gpus * self.config.launcher.nodes)
        return record

    def _made_of(self) -> dict[str, Any]:
        return {
            "fingerprints": fingerprints(self.config),
            "parents": self._parent_names(),
            "overrides": list(self.composed.overrides),
            "method": method_card(self.composed.settings["method"]),
        }

    def _name(self) -> str:
        """Given weights get a row of their own, since they are not a run of the method."""
        evaluated = None if self.config.train else self.config.weights
        if self.config.stage.name is not Stage.none:
            return self.config.name or self.config.stage.name.name
        return self.config.name or (Path(evaluated).stem if evaluated else self.composed.settings["method"])

    def _parent_names(self) -> list[str]:
        return [*([self.config.init_from] if self.config.init_from else []), *self.config.needed_runs]

    def _write(self, record: Record) -> None:
        self._check()
        write_record(self.runs, record)

    def _stopped_by_a_peer(self, lost: PeerLost) -> Outcome:
        log.error("rank %d: %s; the run resumes from its last checkpoint", self.ranks.rank, lost)
        if self.ranks.is_main:
            self._write(self._ended(Status.interrupted, failure={"kind": "peer lost", "message": str(lost)}))
        return Outcome(self.run_id, Status.interrupted, str(lost), peer_lost=True)

    def _record_failure(self, error: BaseException) -> None:
        """Writes a record if the disk and the claim still allow it; other ranks tell rank 0."""
        mended = as_user_error(error, self.folder)
        text = str(mended) if isinstance(mended, UserError) else "".join(traceback.format_exception(error))
        log.error("%s%s", f"rank {self.ranks.rank}: " if self.ranks.world > 1 else "", text)
        failure = {"kind": kind_of(error).value, "message": message_of(error, self.folder)}
        try:
            if not self.ranks.is_main:
                leave_words(self.folder, self.generation, self.ranks.rank, failure["message"])
                return
            for half_written in (self.folder / "checkpoint").glob(".*.part"):
                shutil.rmtree(half_written, ignore_errors=True)  # on a full disk the record takes its place
            self._write(self._ended(Status.failed, failure=failure))
        except (OSError, ClaimLost) as second:
            log.error("no record could be written: %s", second)


def _tidy(folder: Path) -> None:
    """Deletes what only an unfinished run needs."""
    checkpoint.drop_intermediate(folder / "checkpoint")
    drop_logs(folder)
    drop_shards(folder)
    drop_chunks(folder)
    drop_unfinished(folder)


def _step_cost(trained: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Seconds of the steps by the device's clock, and how busy the machine was: processes that wait for each core."""
    key = "step_gpu_seconds" if device.type == "cuda" else "step_cpu_seconds"
    return {key: trained["step_seconds"], "load": os.getloadavg()[2] / (os.cpu_count() or 1)}


def _peak_memory(device: torch.device) -> dict[str, float]:
    peak = {"peak_host_mb": peak_memory_mb(torch.device("cpu"))}
    return peak | ({"peak_gpu_mb": peak_memory_mb(device)} if device.type == "cuda" else {})
