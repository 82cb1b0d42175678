"""The training loop: batches in, a trained detector, a decision log and metrics out; resumable at any step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.config import Precision, RunConfig, ScheduleConfig
from harness.data.policies import Policies
from harness.data.sample import Batch
from harness.engine.contract import Engine
from harness.errors import UserError
from harness.record.decision_log import DecisionLog, Row
from harness.record.files import write_atomically
from harness.training import checkpoint
from harness.training.clock import StepClock
from harness.training.distributed import Agreement, Ranks
from harness.training.flat_gradient import FlatGradient
from harness.training.overlap import OverlappedAverage
from harness.training.pace import Pace, peak_memory_mb
from harness.training.profile import traced
from harness.training.schedule import learning_rate
from harness.training.skips import SkipMonitor
from harness.training.step import StatisticsOfParts, StepPosition, TrainingStep
from methods.contract import Method, Scope, Selection

log = logging.getLogger(__name__)


RECENT_ITERATIONS = 200  # that the acceptance rate in the metrics is taken from


class TrainingDiverged(RuntimeError):
    """The loss is not a finite number any more."""


@dataclass
class Trainer:
    """Everything that a step changes, and what a checkpoint therefore holds.

    `before_write` is called before anything is written below `folder` (it stops a process whose claim was taken
    over); `stop_asked` says whether a signal asked this rank to save and end. `evaluate` is called every
    `evaluation.every` iterations, once a checkpoint to resume from is saved, and again after resuming from one.
    """

    config: RunConfig
    engine: Engine
    method: Method
    ranks: Ranks
    folder: Path
    stop_asked: Callable[[], bool] = lambda: False
    before_write: Callable[[], None] = lambda: None
    evaluate: Callable[[Trainer], None] = lambda trainer: None
    iteration: int = 0
    train_seconds: float = 0.0
    skips: SkipMonitor = field(default_factory=SkipMonitor)

    def __post_init__(self) -> None:
        schedule = self.config.schedule
        self.schedule: ScheduleConfig = schedule
        parameters = self.engine.parameters(Scope.all)
        self.device = parameters[0].device
        self.clock = StepClock(self.device)
        self.flat = FlatGradient(parameters)
        self.flat.attach()
        self.decisions = DecisionLog(self.folder, self.ranks.rank)
        self.policies = Policies.of(self.method)
        self.agreement = Agreement(self.ranks)
        self.average = OverlappedAverage(self.flat, self.ranks)
        self.pace = Pace()
        keep = schedule.keep_checkpoints
        self.saver = checkpoint.Saver(self.folder / "checkpoint", self.ranks, keep, lambda: self.before_write())
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, fused=on_gpu, foreach=not on_gpu
        )
        self.scaler = GradScaler(self.device.type, enabled=schedule.precision is Precision.fp16)
        self.ema: AveragedModel | None = None
        if schedule.ema is not None:
            self.ema = AveragedModel(self.engine.module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema))

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self, batches: Iterable[Batch], progress: Progress) -> bool:
        """Trains to the end of the schedule; False when it was asked to stop and has saved."""
        with traced(self.schedule.profile, self.folder / "profile" / f"rank{self.ranks.rank}.json") as stepped:
            self._run(self.pace.steps(_grouped(batches, self.schedule.accumulate)), progress, stepped)
        self.agreement.finish()
        self.saver.finish()
        return self.iteration == self.schedule.iterations

    def _run(self, steps: Iterable[list[Batch]], progress: Progress, stepped: Callable[[], None]) -> None:
        if self._evaluates:
            self._evaluate()
        last_saved = started = time.monotonic()
        for parts in steps:
            self.clock.start()
            losses, logged = self._step(*parts)
            self.clock.stop()
            self.iteration += 1
            now = time.monotonic()
            self.train_seconds += now - started
            started = now
            if self.iteration in self.schedule.archive and self.ranks.is_main:
                self.before_write()
                checkpoint.save_weights(self.saver.folder, f"{self.iteration:09d}", self.final_weights())
            due, stop = self._due_and_stop(now - last_saved)
            if self.iteration % self.schedule.log_every == 0 or self.iteration == self.schedule.iterations:
                self._write_metrics(self._over_ranks(losses) | logged, progress)
            if self.iteration == self.schedule.iterations:
                break
            if due:
                self.save()
                last_saved = time.monotonic()
                if stop:
                    break
                if self._evaluates:
                    self._evaluate()
                    started = time.monotonic()
            stepped()

    def _due_and_stop(self, seconds: float) -> tuple[bool, bool]:
        """Whether to save now, and to end after it; agreed among ranks, since their clocks and signals differ."""
        late = self.ranks.is_main and seconds > 60 * self.schedule.checkpoint_minutes
        late, stop, unwritten = self.agreement.exchange(late, self.stop_asked(), not self.saver.written)
        if not unwritten:
            self.saver.conclude(known_at=self.iteration - 1)
        regular = self.iteration % self.schedule.checkpoint_every == 0 or self._evaluates
        return stop or late or regular, stop

    @property
    def _evaluates(self) -> bool:
        every = self.config.evaluation.every
        return every > 0 and self.iteration % every == 0 and 0 < self.iteration < self.schedule.iterations

    def _evaluate(self) -> None:
        """Called once a checkpoint to resume from exists; training then continues as if nothing had happened."""
        self.saver.finish()
        with torch.random.fork_rng(devices=[]):
            self.evaluate(self)
        self.pace.restart()

    @contextlib.contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Inside, the module has the moving average of the weights, where there is one."""
        if self.ema is None:
            yield
            return
        held = {name: value.clone() for name, value in self.engine.module.state_dict().items()}
        self.engine.module.load_state_dict(self.ema.module.state_dict())
        try:
            yield
        finally:
            self.engine.module.load_state_dict(held)

    def _step(self, *parts: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One update, by the mean over the parts of this rank's batch. Returns the losses of it and what was logged."""
        counts = self._shared_counts(parts) if len(parts) > 1 else None
        statistics = StatisticsOfParts(self.engine.module) if len(parts) > 1 else None
        self.flat.buffer.zero_()
        found: list[Tensor] = []
        for place, batch in enumerate(parts):
            step = self._part(batch, self.ranks.rank * len(parts) + place)
            losses, selection = self._losses(step, batch, counts)
            known = step.known_gradient(selection) if self.method.brings_gradient() else None
            each = torch.stack(list(losses.values()))
            self._backward(each.sum() / len(parts), known, step.overflowed, last=place == len(parts) - 1)
            found.append(each.detach())
            if statistics:
                statistics.part_ended()
        if statistics:
            statistics.average()
        step.share_statistics()
        self._update()
        if self.policies is not None:
            self.policies.add(self.iteration, self._policy())
        mean = torch.stack(found).mean(0) if len(parts) > 1 else found[0]
        return dict(zip(losses, mean.unbind(), strict=True)), step.logged

    def _part(self, batch: Batch, place: int) -> TrainingStep:
        """The step of one part, the `place`-th over all ranks."""
        self.skips.update(batch)
        position = StepPosition(self.config.seed, self.iteration, self.schedule.iterations)
        scale = self.scaler.scale if self.scaler.is_enabled() else None
        return TrainingStep(self.engine, batch.to(self.device), position, replace(self.ranks, rank=place), scale)

    def _shared_counts(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """The normalisers that all parts on all ranks share, which their losses would tell only one by one."""
        each = [self.engine.shared_counts(part.augmented) for part in parts]
        mean = self.ranks.average(torch.stack([torch.stack(list(counts.values())) for counts in each]).mean(0))
        return dict(zip(each[0], mean.unbind(), strict=True))

    def _losses(
        self, step: TrainingStep, batch: Batch, counts: dict[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], Selection]:
        selection = self.method.select(step)
        trained = step.trained_table(selection)
        if self.method.decides():
            # Here, where the host waits for the decision anyway: later it would wait for the whole step.
            self.decisions.append(_decisions(self.iteration, self.ranks.rank, batch, selection))
        return step.batch_losses(trained, counts), selection

    def _backward(self, total: Tensor, known: Tensor | None, overflowed: Tensor, *, last: bool = True) -> None:
        """Adds a part's gradient to the flat one, which with the last part becomes the mean over ranks."""
        with self.average.during() if last else contextlib.nullcontext():
            if known is not None:
                torch.mul(known, self.scaler.scale(torch.ones_like(total)), out=self.flat.buffer)
            if self.scaler.is_enabled():
                # The scaler takes it for this step's own overflow: it skips the step and lowers the scale.
                self.flat.buffer[0].add_(torch.where(overflowed, torch.inf, 0.0))
            if known is None:
                self.flat.add(self.scaler.scale(total))

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.schedule.clip_value is not None:
            self.flat.buffer.clamp_(-self.schedule.clip_value, self.schedule.clip_value)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, self.iteration)
        if self.ema is not None:
            self.ema.update_parameters(self.engine.module)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _policy(self) -> np.ndarray:
        """What the method has learnt for the draws. Raises UserError on a rank whose method learnt otherwise than
        rank 0's: the ranks together draw what one process would."""
        policy = np.asarray(self.method.policy())
        own = str(policy.dtype), policy.shape, hashlib.sha256(policy.tobytes()).hexdigest()
        if self.ranks.broadcast(own) != own:
            name = type(self.method).__name__
            raise UserError(f"{name}.policy differs between ranks: compute it only from what `step.average` returns")
        return policy

    def _over_ranks(self, losses: dict[str, Tensor]) -> dict[str, Any]:
        """The losses and their sum, averaged over ranks: what is logged, and what all ranks judge alike. memory_mb: the
        most that a rank needed so far, on its GPU or else of the host; memory_rank: which that is."""
        values = torch.stack(list(losses.values()))
        memory = values.new_zeros(self.ranks.world)
        memory[self.ranks.rank] = self.ranks.world * peak_memory_mb(self.device)
        mean = self.ranks.average(torch.cat([values.sum()[None], values, memory]))
        names = ["loss", *losses]
        most, which = mean[len(names) :].max(0)
        figures = dict(zip(names, mean[: len(names)].unbind(), strict=True))
        return {**figures, "memory_mb": most, "memory_rank": which}

    def _write_metrics(self, metrics: dict[str, Any], progress: Progress) -> None:
        values = {k: float(v) for k, v in metrics.items()}
        if not torch.isfinite(torch.tensor(values["loss"])):
            raise TrainingDiverged(f"the loss is {values['loss']} at iteration {self.iteration}; lower schedule.lr")
        if not self.ranks.is_main:
            return
        line = {
            "iteration": self.iteration,
            "total": self.schedule.iterations,
            **values,
            "lr": learning_rate(self.schedule, self.iteration - 1),
            "acceptance": self.decisions.acceptance(self.iteration - RECENT_ITERATIONS),
            "steps_per_second": self.iteration / max(self.train_seconds, 1e-9),
            **self.pace.read(self.schedule.iterations - self.iteration, self.schedule.global_batch),
            "time": time.time(),
        }
        self.before_write()
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        progress(line)

    # ------------------------------------------------------------------------------------------- saved and restored

    def save(self) -> None:
        """Begins to write a checkpoint; every rank calls it at the same step."""
        self.before_write()
        shared = {
            "model": self.engine.module.state_dict(),
            "model_ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
            "train_seconds": self.train_seconds,
            "step_seconds": self.clock.seconds(),
        }
        own = {
            "method": self.method.state_dict(),
            "decisions": self.decisions.save(),
            "skips": asdict(self.skips),
            "policies": self.policies.state_dict() if self.policies else {},
        }
        self.saver.begin(self.iteration, shared, own)

    def resume(self) -> bool:
        """Restores the newest checkpoint that can be; False without one. Raises UserError if none of some can be."""
        found = checkpoint.restore_newest(self.folder / "checkpoint", self.ranks, self.device, self._restore)
        if not found:
            self.decisions.restore(None)
        _keep_metrics_before(self.folder / "metrics.jsonl", self.iteration if found else 0, self.ranks)
        return found

    def _restore(self, shared: dict[str, Any], own: dict[str, Any]) -> None:
        self.engine.module.load_state_dict(shared["model"])
        if self.ema is not None:
            self.ema.load_state_dict(shared["model_ema"])
        self.optimizer.load_state_dict(shared["optimizer"])
        self.scaler.load_state_dict(shared["scaler"])
        self.iteration, self.train_seconds = int(shared["iteration"]), float(shared["train_seconds"])
        self.clock.spent = float(shared["step_seconds"])
        self.method.load_state_dict(own["method"])
        self.decisions.restore(own["decisions"])
        if self.policies is not None:
            self.policies.load_state_dict(own["policies"])
        self.skips = SkipMonitor(**{**own["skips"], "by_file": Counter(own["skips"]["by_file"])})

    def seconds(self) -> dict[str, float]:
        """Of training by the wall, and of its steps by the device."""
        return {"train_seconds": self.train_seconds, "step_seconds": self.clock.seconds()}

    def final_weights(self) -> dict[str, Any]:
        """The trained weights in the layout of published checkpoints: model, and model_ema where there is one."""
        content: dict[str, Any] = {"model": self.engine.module.state_dict(), "iteration": self.iteration}
        if self.ema is not None:
            content["model_ema"] = self.ema.module.state_dict()
        return content


Progress = Callable[[dict[str, Any]], None]


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    rest = iter(batches)
    while parts := list(islice(rest, size)):
        yield parts


def _decisions(iteration: int, rank: int, batch: Batch, selection: Selection) -> list[Row]:
    """One row per image into which something was pasted."""
    pasted = batch.has_pasted.tolist()
    if not any(pasted):
        return []
    keep = selection.keep.tolist()
    single = _is_by_instance(selection)
    contribution = [None] * len(pasted) if single else _per_image(selection.contribution, len(pasted))
    threshold = None if single else _per_image(selection.threshold, 1)[0]
    kept = selection.instances
    if kept is not None:
        kept = kept & selection.keep[:, None]  # with its pasted view an image loses all that was pasted
    weight = selection.weight
    if weight is not None and weight.dim() == 1:  # an image's weight is that of all that was pasted into it
        weight = weight[:, None].expand(-1, max(len(view.targets) for view in batch.augmented))
    rows = []
    for image, sample in enumerate(batch.samples):
        if sample.augmented is None:
            continue
        own = sample.augmented.targets
        rows.append(
            {
                "iteration": iteration,
                "rank": rank,
                "image": image,
                "pool_rows": own.pool_row[own.pasted].tolist(),
                "categories": own.labels[own.pasted].tolist(),
                "contribution": contribution[image],
                "threshold": threshold,
                "accepted": bool(keep[image]),
                "decided": selection.decided,
                "contributions": _of_instances(selection.contribution, image, own.pasted),
                "kept": _of_instances(kept, image, own.pasted),
                "weights": _of_instances(weight, image, own.pasted),
            }
        )
    return rows


def _is_by_instance(selection: Selection) -> bool:
    return selection.contribution is not None and selection.contribution.dim() == 2


def _of_instances(value: Tensor | None, image: int, pasted: Tensor) -> list[Any] | None:
    """The figures (n, G) of an image's pasted instances; None if there are none of single instances."""
    if value is None or value.dim() < 2:
        return None
    return value[image, : len(pasted)][pasted.to(value.device)].tolist()


def _per_image(value: Tensor | float | None, count: int) -> list[float | None]:
    if value is None:
        return [None] * count
    figure = torch.as_tensor(value)
    return figure.tolist() if figure.dim() else [float(figure)] * count


def _keep_metrics_before(path: Path, iteration: int, ranks: Ranks) -> None:
    """Drops what an earlier, interrupted start logged after the checkpoint that training resumes from."""
    if not ranks.is_main or not path.is_file():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
    with write_atomically(path) as temporary:
        temporary.write_text("".join(kept))
