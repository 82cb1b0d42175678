"""A method's choices: views, proposals, kinds of losses, scopes of gradients, and needs."""

from __future__ import annotations

from enum import Enum


class ViewKind(Enum):
    """A version of the batch: the real images, the same with instances pasted, or the reference images."""

    ORIGINAL = "original"
    AUGMENTED = "augmented"
    REFERENCE = "reference"


class Proposals(Enum):
    """What the box heads are run on. Ground-truth proposals imply no federated mask, like the published code."""

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
    """What a method needs from an engine; checked before a run starts."""

    PASTED_ATTRIBUTION = "pasted_attribution"
    GROUND_TRUTH_PROPOSALS = "ground_truth_proposals"
    INSTANCE_ATTRIBUTION = "instance_attribution"  # LossTable.per_instance, Selection.instances and (n, G) weights
    INSTANCE_CONFIDENCE = "instance_confidence"  # Step.confidence
    LAST_LAYER = "last_layer"  # Loss.last_layer of the classification losses
