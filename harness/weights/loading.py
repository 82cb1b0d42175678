"""Weights into and out of a detector, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from torch import Tensor, nn

from harness.errors import UserError
from harness.weights import published_names
from harness.weights.classes import extend_classifier
from harness.weights.file import Weights, read_weights, write_weights
from harness.weights.trunk_names import is_detectron2_resnet, named_like, of_trunk

SHOWN = 4  # names in a message
OUTPUT_NORMS = ("norm0.", "norm1.", "norm2.", "norm3.")  # of a Swin in a detector; a classifier has none


class Layout(Enum):
    """Whose names a file has. BACKBONE: a trunk alone, as image classifiers are published."""

    NATIVE = "native"
    DETECTRON2 = "detectron2"
    MMDET = "mmdet"
    BACKBONE = "backbone"


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's weights, by name."""

    source: str
    matched: list[str]
    missing: list[str]  # of the module's, none of them required
    left_over: list[str]  # of the file's
    classes: str = ""  # what was done about classes that the file lacks

    def __str__(self) -> str:
        text = f"{self.source}: {len(self.matched)} tensors loaded"
        for word, names in (("missing", self.missing), ("left over", self.left_over)):
            text += f", {len(names)} {word}" + (f" ({some_names(names)})" if names else "")
        return f"{text}; {self.classes}" if self.classes else text


def layout_of(names: Mapping[str, object]) -> Layout:
    """Which layout a file's names are of."""
    if any(name.startswith(("roi_heads.", "proposal_generator.")) for name in names):
        return Layout.DETECTRON2
    if any(name.startswith(("cascade.", "proposal_network.")) for name in names):
        return Layout.NATIVE
    if any(name.startswith(("roi_head.", "rpn_head.", "bbox_head.")) for name in names):
        return Layout.MMDET
    return Layout.BACKBONE


def refusal(path: Path, layout: Layout, engine: str) -> UserError:
    """The error for a file with a backbone alone, or with another engine's detector."""
    if layout is Layout.BACKBONE:
        return UserError(f"{path} holds only a backbone; start from it with backbone.weights={path}")
    return UserError(
        f"{path} holds a detector of engine={layout.value}, which engine={engine} cannot load; backbone.weights={path} "
        "takes its backbone"
    )


def load_published(module: nn.Module, path: Path, *, new_classes: bool = False, averaged: bool = True) -> LoadReport:
    """Loads a detector's weights, published ones or ours, of both the EMA where `averaged`.

    With `new_classes`, the detector may have more classes than the file: these keep their initialisation.
    Raises UserError when the file lacks a part of the detector or has one of another shape.
    """
    weights = read_weights(path, averaged=averaged)
    layout = layout_of(weights.tensors)
    if layout not in (Layout.NATIVE, Layout.DETECTRON2):
        raise refusal(path, layout, "native")
    place_of = published_names.ours if layout is Layout.DETECTRON2 else str
    return load_by_name(module, weights, place_of, may_lack=published_names.is_optional, new_classes=new_classes)


def load_backbone(trunk: nn.Module, path: Path) -> LoadReport:
    """Loads a trunk's weights: an image classifier's, or a whole detector's of which the trunk is taken.

    Its names may be those of any engine (`trunk_names`). Norms on a trunk's outputs, which classifiers lack, keep their
    values. Raises UserError as `load_published` does.
    """
    weights = read_weights(path)
    found = of_trunk(weights.tensors)
    if is_detectron2_resnet(found) and not is_detectron2_resnet(trunk.state_dict()) and _is_folded(found):
        raise UserError(
            f"{path}: batch norms without statistics, as in Caffe's ResNets, which use BGR images and stride in their "
            "1x1 convolutions; use a torchvision ResNet"
        )
    named = replace(weights, tensors=named_like(found, trunk.state_dict()))
    return load_by_name(
        trunk, named, may_lack=lambda name: published_names.is_optional(name) or name.startswith(OUTPUT_NORMS)
    )


def _is_folded(tensors: Mapping[str, Tensor]) -> bool:
    return not any(tensor.any() for name, tensor in tensors.items() if name.endswith("running_mean"))


def convert(path: Path, out: Path, to: Layout) -> list[str]:
    """Writes a detector's weights in another layout; returns names that have no place in it.

    Buffers that follow from the architecture (attention's index tables, class frequencies) are not written; loaders
    keep their own.
    """
    tensors = read_weights(path).tensors
    layout = layout_of(tensors)
    if layout is Layout.BACKBONE:
        raise UserError(f"{path} holds only a backbone, which every engine reads unchanged: backbone.weights={path}")
    if layout is Layout.MMDET:
        raise UserError(
            f"{path} holds an mmdet detector, which other engines do not have; backbone.weights={path} "
            "loads its backbone on every engine"
        )
    left: list[str] = []
    if layout is Layout.DETECTRON2:
        wanted = {name: published_names.ours(name) for name in tensors if not published_names.is_optional(name)}
        left = [name for name, mine in wanted.items() if mine is None]
        tensors = {mine: tensors[name] for name, mine in wanted.items() if mine is not None}
    write_weights(out, _to_published(tensors) if to is Layout.DETECTRON2 else tensors)
    return left


def _to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    resnet = f"{published_names.TRUNK}conv1.weight" in tensors or f"{published_names.TRUNK}conv1.0.weight" in tensors
    return {published_names.published(name, resnet=resnet): tensor for name, tensor in tensors.items()}


def load_by_name(
    module: nn.Module,
    weights: Weights,
    place_of: Callable[[str], str | None] = str,
    *,
    may_lack: Callable[[str], bool],
    new_classes: bool = False,
) -> LoadReport:
    """Loads a file's tensors into the parameters and buffers of a module.

    `place_of` gives the module's name for one of the file's, None if there is none. What the file lacks keeps its
    value, where `may_lack` allows that of its name. With `new_classes`, the module may have more classes than the file.
    Raises UserError for a file that lacks more, and for a tensor of another shape.
    """
    state, path = module.state_dict(), weights.path
    places = {name: place_of(name) for name in weights.tensors}
    found = {place: weights.tensors[name] for name, place in places.items() if place in state and place is not None}
    missing = [name for name in state if name not in found]
    required = [name for name in missing if not may_lack(name)]
    if required:
        raise UserError(
            f"{path} lacks {len(required)} of {len(state)} tensors of this detector: {some_names(required)}"
        )
    found, classes = extend_classifier(found, state) if new_classes else (found, "")
    for name, tensor in found.items():
        if state[name].shape != tensor.shape:
            theirs, mine = tuple(tensor.shape), tuple(state[name].shape)
            hint = "; set data.num_classes to the file's number of classes" if "cls" in name else ""
            raise UserError(f"{path}: {name} has shape {theirs}, but this detector has {mine}{hint}")
    module.load_state_dict(found, strict=False)
    left_over = sorted(name for name, place in places.items() if place not in state)
    return LoadReport(weights.source, sorted(found), missing, left_over, classes)


def some_names(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
