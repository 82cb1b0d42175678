"""The hooks of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from methods.contract.choices import Need
from methods.contract.data import DatasetFacts, Draw, ImageFacts, Pool
from methods.contract.step import Selection, Step


@dataclass(frozen=True)
class Start:
    """What is known when training starts, handed to `Method.start`."""

    total_iterations: int
    device: torch.device
    images_per_rank: int
    dataset: DatasetFacts
    pool: Pool  # as `prepare` left it: the rows of `Draw.rows` and `Instances.pool_row`
    needed: tuple[Mapping[str, Any], ...] = ()  # records of the runs that this one `needs`, as dictionaries


@dataclass
class Method:
    """The base class of all methods. Every hook has a default; `baseline` overrides none.

    Dataclass fields are the configuration. Create run-time state in `start`, never in a field. Each loader worker has a
    copy of the method, made after `prepare` and before `start`: `draw` and `reference` may read attributes that
    `prepare` has set, and learn about training only through `policy`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = ""  # the paper or repository that it comes from
    pastes: ClassVar[bool] = False  # whether a pool is read at all
    lag: ClassVar[int] = 8  # steps from a policy to the draws that use it; more than data.workers

    def validate(self) -> None:
        """Raises ValueError with one sentence for a combination of options that makes no sense."""

    def required(self) -> frozenset[Need]:
        """What the chosen options need of an engine."""
        return self.needs

    def files(self) -> dict[str, Path]:
        """Files that options name, by option; a run's identity depends on their contents, not their paths."""
        return {}

    def uses_reference(self) -> bool:
        """Whether reference images are loaded."""
        return type(self).reference is not Method.reference

    def keeps_emptied_references(self) -> bool:
        """Whether a reference image that lost all instances to the crop stays in the reference batch."""
        return False

    def decides(self) -> bool:
        """Whether there are decisions to log."""
        return type(self).select is not Method.select

    def brings_gradient(self) -> bool:
        """Whether `select` may give a `Selection.gradient`. Ranks wait for one another in each step to agree on its
        use; from other methods it is not taken."""
        return False

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        """Offline, before training and in every process: filter, subset or replace the pool."""
        return pool

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        """Per image, in loader workers: what to paste.

        A method that overrides `policy` takes one more argument, `policy: np.ndarray | None = None`: what `policy`
        returned `lag` steps earlier, read-only, or None in the first `lag` steps of training.
        """
        return Draw()

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int | tuple[int, ...] | None:
        """Per image, in loader workers: index of the training image that joins the reference batch, or of several.

        The reference batch holds the first ones of all images, then the second ones, and so on.
        """
        return None

    def start(self, start: Start) -> None:
        """Creates run-time state, once per process, before the first step or `load_state_dict`.

        Raises ValueError with one sentence if the method cannot start from this.
        """

    def select(self, step: Step) -> Selection:
        """Per step, on the device: which images keep the pasted view. The default keeps all."""
        return Selection(keep=torch.ones_like(step.has_pasted), decided=False)

    def policy(self) -> np.ndarray:
        """After each step: what the draws of `lag` steps later should use, such as a weight per category.

        Numbers of any shape, the same on every rank: compute them from what `step.average` returns. Checkpoints hold
        the last `lag` of them, and loader workers receive one per batch, so prefer one number per category to one per
        pool row.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override `policy`")

    def state_dict(self) -> dict[str, Any]:
        """What must survive preemption: tensors, numbers, strings, lists and dictionaries of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, after `start`."""
