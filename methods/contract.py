"""The contract between a method and the harness: what a method may override and what it is handed.

A method imports this module, torch and NumPy; it never imports the harness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor


class ViewKind(Enum):
    """A version of the batch: the real images, the same with instances pasted, or the reference images."""

    ORIGINAL = "original"
    AUGMENTED = "augmented"
    REFERENCE = "reference"


class Proposals(Enum):
    """What the box heads are run on. Ground-truth proposals imply no federated mask, as published."""

    SAMPLED = "sampled"
    GROUND_TRUTH = "ground_truth"


class LossKind(Enum):
    CLASSIFICATION = "classification"
    BOX = "box"
    MASK = "mask"
    PROPOSAL = "proposal"


class Scope(Enum):
    """Which parameters a gradient is taken over; heads and last skip the backbone's backward pass.

    In lower case, since methods have it as an option and Hydra takes members by name: `method.scope=heads`.
    """

    all = "all"
    heads = "heads"
    last = "last"


class Need(Enum):
    """What a method asks of an engine; checked before a run starts."""

    PASTED_ATTRIBUTION = "pasted_attribution"
    GROUND_TRUTH_PROPOSALS = "ground_truth_proposals"
    INSTANCE_ATTRIBUTION = "instance_attribution"  # LossTable.per_instance, Selection.instances and (n, G) weights
    INSTANCE_CONFIDENCE = "instance_confidence"  # Step.confidence


class PasteRule(Enum):
    """AREA: X-Paste's category area statistics, anywhere in the image.

    AS_IT_LIES: same place and size as at home, after a scale jitter, crop and flip of its own image. Rows in sequence
    that lie so in one training image are pasted in one go, and do not hide one another.
    """

    AREA = "area"
    AS_IT_LIES = "as_it_lies"


# ---------------------------------------------------------------------------------------------- what a method is handed


class Pool(Protocol):
    """Instances that can be pasted, read-only and shared between workers. A row is an index into it."""

    def __len__(self) -> int: ...

    @property
    def categories(self) -> np.ndarray:
        """(N,) int64, the 0-based category of every row."""

    @property
    def present_categories(self) -> np.ndarray:
        """Sorted (K,) int64: the categories that have at least one row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `column` takes."""

    def rows_of(self, category: int) -> np.ndarray:
        """(M,) int64 rows of a category, empty when it has none."""

    def column(self, name: str) -> np.ndarray:
        """(N,) values of a column such as generator, prompt_id, clip_score (percent), area_fraction (0..1).

        Raises KeyError when the pool's index has no such column.
        """

    def subset(self, rows: np.ndarray) -> Pool:
        """The pool of these rows alone, renumbered in the order given."""


class DatasetFacts(Protocol):
    """Statistics of the training set, read-only."""

    @property
    def num_images(self) -> int: ...

    @property
    def num_categories(self) -> int: ...

    @property
    def frequency(self) -> np.ndarray:
        """(C,) one-letter strings: r (1-10 training images), c (11-100), f (more)."""

    @property
    def image_count(self) -> np.ndarray:
        """(C,) int64: training images that hold the category."""

    def images_of(self, category: int) -> np.ndarray:
        """(M,) int64 indices of the training images that hold a category."""

    def categories_of(self, image: int) -> np.ndarray:
        """(K,) int64 categories that an image holds, ascending."""

    def instance_pool(self) -> Pool:
        """The training set's own instances as a pool: columns image (its index) and annotation."""

    def join(self, first: Pool, second: Pool) -> Pool:
        """One pool of both: the first one's rows, then the second one's.

        A column that only one has is filled up with -1 (integers), NaN (floats) or "" (text).
        """


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a training image before it is decoded."""

    index: int
    width: int
    height: int
    categories: np.ndarray  # (K,) int64, ascending


@dataclass(frozen=True)
class Draw:
    """What to paste into one image: pool rows, in pasting order, and how each is placed.

    at_most: of the instances of a training image that lie as at home, a uniform number in 0..at_most is pasted, at most
    those that its view shows, chosen uniformly; all of them without it. The harness fills in `categories` (k,), `image`
    and `visible_categories`, those that the unpasted view shows, before it hands the draw to `Method.reference`.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    rules: tuple[PasteRule, ...] | PasteRule = PasteRule.AREA
    categories: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    image: ImageFacts | None = None
    at_most: int | None = None
    visible_categories: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def rule_of(self, place: int) -> PasteRule:
        return self.rules if isinstance(self.rules, PasteRule) else self.rules[place]


@dataclass(frozen=True)
class Instances:
    """The ground truth of the augmented view, padded: n images, G the largest number of instances of one (at least 1).

    pasted (n, G) bool: what was pasted, False for an image's own instances and for padding. pool_row (n, G) int64: the
    row of the pool that `prepare` returned, -1 where not pasted. labels (n, G) int64, 0-based. boxes (n, G, 4) float32
    xyxy pixels of the view.
    """

    pasted: Tensor
    pool_row: Tensor
    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Attribution:
    """Which instance each of a loss's R terms belongs to.

    terms (R,): summed over an image they are the loss's `sum`, or a part of it. units (R,): what each adds to the
    normaliser. instance (R,) int64: image * G + instance, -1 for a term of no instance. shape: (n, G).
    """

    terms: Tensor
    units: Tensor
    instance: Tensor
    shape: tuple[int, int]

    def by_instance(self, values: Tensor) -> Tensor:
        """(n, G) sums of values (R,)."""
        places = torch.arange(self.shape[0] * self.shape[1], device=values.device)
        # A product with zeros and ones: scattered additions are in no fixed order on a GPU.
        return (values @ (self.instance[:, None] == places).to(values.dtype)).view(self.shape)


@dataclass(frozen=True)
class Loss:
    """One loss as per-image sums.

    sum (n,): the loss summed over the image's terms. count (n,): what the image adds to the normaliser.
    pasted (n,): the part of `sum` that comes from pasted instances, where the engine attributes it.
    across_ranks: the normaliser is the mean over ranks (CenterNet's number of positives), reduced after the decision.
    attribution: which instance each term belongs to, where the engine knows.
    """

    kind: LossKind
    sum: Tensor
    count: Tensor
    pasted: Tensor | None = None
    across_ranks: bool = False
    attribution: Attribution | None = None

    @property
    def instances(self) -> Tensor:
        """(n, G) the part of `sum` that belongs to each instance: terms matched to it, no background.

        Raises ValueError where the engine does not attribute this loss.
        """
        return self._attributed.by_instance(self._attributed.terms)

    def selected(self, keep: Tensor | None, weight: Tensor | None) -> Loss:
        """The loss without the instances that `keep` (n, G) bool leaves out: their terms count neither in the sum nor
        in the normaliser. `weight` (n,) multiplies images' sums, (n, G) instances' terms; normalisers stay.

        Raises ValueError as `instances` where (n, G) is asked for.
        """
        total, count = self.sum, self.count
        factor = None if weight is None or weight.dim() == 1 else weight
        if keep is not None:
            ignored = ~keep
            units = self._attributed.by_instance(self._attributed.units)
            count = count - (units * ignored).sum(1)
            factor = keep.to(total.dtype) if factor is None else factor * keep
        if factor is not None:
            # What is taken off cancels term by term in the gradient too, so an ignored term's is exactly zero.
            total = total - (self.instances * (1 - factor)).sum(1)
        if weight is not None and weight.dim() == 1:
            total = total * weight
        return replace(self, sum=total, count=count, pasted=None, attribution=None)

    @property
    def _attributed(self) -> Attribution:
        if self.attribution is None:
            raise ValueError(f"the engine does not say which instance the {self.kind.value} loss's terms belong to")
        return self.attribution


@dataclass(frozen=True)
class LossTable:
    """Losses by name. A batch loss is a sum over images divided by the summed counts (at least 1)."""

    losses: Mapping[str, Loss]
    trace: object = None  # what an engine keeps of the pass, for `Engine.confidence`

    def names(self, *kinds: LossKind) -> tuple[str, ...]:
        """Names of the losses of these kinds; all without one."""
        return tuple(name for name, loss in self.losses.items() if not kinds or loss.kind in kinds)

    def batch(self, name: str, normaliser: Tensor | None = None) -> Tensor:
        """One loss of the batch, a scalar; `normaliser` replaces the local count where ranks share one."""
        loss = self.losses[name]
        return loss.sum.sum() / (loss.count.sum() if normaliser is None else normaliser).clamp(min=1)

    def total(self, *kinds: LossKind) -> Tensor:
        """Sum of the batch losses of these kinds (all without one), a scalar."""
        return torch.stack([self.batch(name) for name in self.names(*kinds)]).sum()

    def pasted_total(self, *kinds: LossKind) -> Tensor:
        """The part of `total` that comes from pasted instances, over the same normalisers."""
        parts = []
        for name in self.names(*kinds):
            loss = self.losses[name]
            if loss.pasted is None:
                raise ValueError(f"the engine does not say which part of {name} comes from pasted instances")
            parts.append(loss.pasted.sum() / loss.count.sum().clamp(min=1))
        return torch.stack(parts).sum()

    def per_image(self, *kinds: LossKind, pasted: bool = False) -> Tensor:
        """(n,) each image's share of `total` (or of `pasted_total`): its sums over the batch's normalisers."""
        parts = []
        for name in self.names(*kinds):
            loss = self.losses[name]
            value = loss.pasted if pasted else loss.sum
            if value is None:
                raise ValueError(f"the engine does not say which part of {name} comes from pasted instances")
            parts.append(value / loss.count.sum().clamp(min=1))
        return torch.stack(parts).sum(0)

    def per_instance(self, *kinds: LossKind) -> Tensor:
        """(n, G) each instance's share of `total`: the terms matched to it over the batch's normalisers.

        Its sum over pasted instances is `pasted_total`. Columns are those of `Step.instances` for the augmented view.
        """
        losses = [self.losses[name] for name in self.names(*kinds)]
        return torch.stack([loss.instances / loss.count.sum().clamp(min=1) for loss in losses]).sum(0)

    def selected(self, keep: Tensor | None = None, weight: Tensor | None = None) -> LossTable:
        """Every loss without the instances that `keep` (n, G) bool leaves out, weighted by `weight` (n,) or (n, G)."""
        return LossTable({name: loss.selected(keep, weight) for name, loss in self.losses.items()})

    def copied(self) -> LossTable:
        """The same figures in tensors of their own, with the same gradients: writing to them changes nothing else."""
        fields = {
            name: replace(
                loss,
                sum=loss.sum.clone(),
                count=loss.count.clone(),
                pasted=None if loss.pasted is None else loss.pasted.clone(),
            )
            for name, loss in self.losses.items()
        }
        return LossTable(MappingProxyType(fields))

    def where(self, keep: Tensor, other: LossTable) -> LossTable:
        """Per image, this table where `keep` (n,) bool holds and `other` elsewhere."""
        mixed = {}
        for name, loss in self.losses.items():
            rest = other.losses[name]
            mixed[name] = replace(
                loss,
                sum=torch.where(keep, loss.sum, rest.sum),
                count=torch.where(keep, loss.count, rest.count),
                pasted=None,
                attribution=None,
            )
        return LossTable(mixed)


class Step(Protocol):
    """One training step as a method sees it. n is the number of training images on this rank."""

    iteration: int  # 0-based
    progress: float  # share of the schedule that is done, 0..1
    dtype: torch.dtype  # of the detector's parameters, and so of their gradients
    rng: np.random.Generator  # keyed by (seed, iteration, rank)

    @property
    def has_pasted(self) -> Tensor:
        """(n,) bool on the device: images into which something was pasted."""

    @property
    def any_pasted(self) -> bool:
        """Whether something was pasted into any image; known on the host, so asking costs no wait."""

    @property
    def instances(self) -> Instances:
        """The augmented view's instances, pasted ones and the images' own, in the columns of `per_instance`."""

    def confidence(self) -> Tensor:
        """(n, G) the detector's probability that each pasted instance is what its label says; NaN elsewhere.

        The box heads look at the instance's own box, on features that the augmented view's pass has computed already;
        the mean over cascade stages, without gradient. Needs INSTANCE_CONFIDENCE of the engine.
        """

    @property
    def num_references(self) -> int:
        """How many reference images the step has."""

    @property
    def reference_instances(self) -> tuple[int, ...]:
        """Ground-truth instances of each reference image, in order; 0 only where the method keeps emptied images."""

    def losses(
        self,
        view: ViewKind,
        proposals: Proposals = Proposals.SAMPLED,
        *,
        backbone_in_eval: bool = False,
        grad: bool = True,
        images: int | None = None,
    ) -> LossTable:
        """The view's losses; computed once per (view, proposals, backbone mode) and kept until the step ends.

        `backbone_in_eval` runs the backbone without stochastic depth and with running statistics;
        `images` takes only the first so many.
        """

    def gradient(
        self, loss: Tensor, scope: Scope = Scope.all, out: Tensor | None = None, *, keep_graph: bool = True
    ) -> Tensor:
        """Flat gradient (P,) of a scalar over a scope, in the detector's precision; written to `out` where given.

        keep_graph=False frees the graph: for losses that are not trained on, the reference batch's.
        """

    def num_parameters(self, scope: Scope = Scope.all) -> int:
        """Length P of that gradient."""

    def losses_after_step(
        self,
        view: ViewKind,
        lr: float,
        reference_proposals: Proposals = Proposals.SAMPLED,
        *,
        loss: Tensor | None = None,
        images: int | None = None,
        draws: int = 0,
    ) -> LossTable:
        """The reference batch's losses (no gradient) after one plain SGD step of size `lr` on the view's total loss.

        `loss`, a scalar of the view's pass, replaces the total; `images` takes only the first so many references.
        Calls of a step with equal `draws` draw the reference proposals alike. Weights are restored bit for bit.
        """

    def average(self, value: Tensor) -> Tensor:
        """The mean over ranks of a tensor that every rank holds; every rank must call it. One rank: unchanged."""

    def log(self, name: str, value: float | Tensor) -> None:
        """Adds a figure to the step's metrics; a tensor is read only when metrics are written."""


@dataclass(frozen=True)
class Selection:
    """Which images keep the pasted view, which pasted instances of it count, how much, and why.

    keep (n,) bool. instances (n, G) bool, in the columns of `Step.instances`: pasted instances that it leaves out are
    ignored: the terms matched to them count in no loss, neither as foreground nor as background, and the rest of the
    image trains as it is. What it says of other instances does not count. weight (n,) or (n, G) float: factors of
    images' losses, or of pasted instances' terms; normalisers stay those of the unweighted batch. Images that do not
    keep the pasted view are neither ignored in part nor weighted. An (n, G) tensor needs INSTANCE_ATTRIBUTION.

    contribution: scalar, (n,) or (n, G) float, threshold: scalar, (n,) or (n, G), both as they go into the decision
    log; None when the method has no such figure. decided is False for a step that counts in no acceptance rate.
    gradient: flat, over all parameters, of the total of the view that all images are trained on, where the method
    has it already. It saves the backward pass where every rank has one; a loss that ranks share a normaliser of is then
    over each rank's own.
    """

    keep: Tensor
    contribution: Tensor | None = None
    threshold: Tensor | float | None = None
    decided: bool = True
    gradient: Tensor | None = None
    instances: Tensor | None = None
    weight: Tensor | None = None


@dataclass(frozen=True)
class Start:
    """What is known when training starts, handed to `Method.start`."""

    total_iterations: int
    device: torch.device
    images_per_rank: int
    dataset: DatasetFacts
    needed: tuple[Mapping[str, Any], ...] = ()  # records of the runs that this one `needs`, as dictionaries


# --------------------------------------------------------------------------------------------------------- the method


@dataclass
class Method:
    """A thing under comparison. Every hook has a default; `baseline` overrides none.

    Dataclass fields are the configuration. Run-time state is made in `start`, never in a field; loader workers
    hold an instance of their own that `prepare`, `draw` and `reference` are called on.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = ""  # paper or repository that it comes from
    pastes: ClassVar[bool] = False  # whether a pool is read at all

    def validate(self) -> None:
        """Raises ValueError with one sentence for a combination of options that makes no sense."""

    def required(self) -> frozenset[Need]:
        """What the chosen options need of an engine."""
        return self.needs

    def files(self) -> dict[str, Path]:
        """Files that options name, by option; their contents and not their paths make a run's identity."""
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

    def prepare(self, pool: Pool, dataset: DatasetFacts, rng: np.random.Generator) -> Pool:
        """Offline, once: filter, subset or replace the pool."""
        return pool

    def draw(self, image: ImageFacts, pool: Pool, rng: np.random.Generator) -> Draw:
        """Per image, in loader workers: what to paste."""
        return Draw()

    def reference(self, draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int | tuple[int, ...] | None:
        """Per image, in loader workers: index of the training image that joins the reference batch, or of several.

        The reference batch is the first ones of all images, then the second ones, and so on.
        """
        return None

    def start(self, start: Start) -> None:
        """Makes run-time state, once per process, before the first step or `load_state_dict`.

        Raises ValueError with one sentence where it cannot start from what it is given.
        """

    def select(self, step: Step) -> Selection:
        """Per step, on the device: which images keep the pasted view. The default keeps all."""
        return Selection(keep=torch.ones_like(step.has_pasted), decided=False)

    def state_dict(self) -> dict[str, Any]:
        """What must survive preemption: tensors, numbers, strings, lists and dictionaries of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, after `start`."""


def uniform_over_categories(pool: Pool, rng: np.random.Generator, max_samples: int = 20) -> Draw:
    """X-Paste's draw: a number uniform in 0..max_samples-1, each a uniform category, then a uniform instance of it.

    Source: X-Paste (2212.03863), `cas_random`.
    """
    count = int(rng.integers(0, max_samples)) if max_samples > 0 else 0
    if count == 0 or len(pool) == 0:
        return Draw()
    categories = rng.choice(pool.present_categories, count)
    # Generator.choice costs several times a random index.
    rows = (pool.rows_of(int(category)) for category in categories)
    return Draw(rows=np.array([own[rng.integers(len(own))] for own in rows], np.int64))


def concatenated(draws: Iterable[Draw]) -> Draw:
    """One draw of several, in order; `at_most` is that of the first part that has it."""
    parts = [draw for draw in draws if len(draw.rows)]
    if not parts:
        return Draw()
    rules = tuple(part.rule_of(i) for part in parts for i in range(len(part.rows)))
    at_most = next((part.at_most for part in parts if part.at_most is not None), None)
    return Draw(rows=np.concatenate([part.rows for part in parts]), rules=rules, at_most=at_most)
