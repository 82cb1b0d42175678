"""Weights by name into a detectron2 model, read without executing what is in the file."""

from __future__ import annotations

from pathlib import Path

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from harness.detector.checkpoint import LoadReport, some_names
from harness.detector.classes import grown
from harness.detector.weights_file import Weights, read_weights
from harness.errors import UserError

# What a model makes anew and checkpoints of some versions hold.
DERIVED = ("num_batches_tracked", "relative_position_index", "pixel_mean", "pixel_std", "cell_anchors")
FEDERATED = ("freq_weight", "fed_loss_cls_weights")
HEADS = ("roi_heads.", "proposal_generator.", "head.")


def load_detector(module: nn.Module, path: Path, *, new_classes: bool) -> str:
    """Loads a detector's .pth or .pkl, EMA preferred; returns what matched, was missing and was left over.

    With `new_classes`, the model may have more classes than the file. Raises UserError when the file lacks a part.
    """
    weights = read_weights(path)
    if not any(name.startswith(HEADS) for name in weights.tensors):
        raise UserError(f"{path} holds a backbone alone; start from it with backbone.weights={path}")
    state = module.state_dict()
    found = {name: value for name, value in weights.tensors.items() if name in state}
    missing = [name for name in state if name not in found]
    required = [name for name in missing if not _is_derived(name)]
    if required:
        raise UserError(f"{path} lacks {len(required)} of {len(state)} tensors of this model: {some_names(required)}")
    found, classes = grown(found, state) if new_classes else (found, "")
    found = {name: value for name, value in found.items() if not name.endswith(FEDERATED)}
    for name, value in found.items():
        if state[name].shape != value.shape:
            theirs, mine = tuple(value.shape), tuple(state[name].shape)
            hint = "; set data.num_classes to the file's number of classes" if "cls_score" in name else ""
            raise UserError(f"{path}: {name} has shape {theirs} where this model has {mine}{hint}")
    module.load_state_dict(found, strict=False)
    left = sorted(name for name in weights.tensors if name not in state)
    return str(LoadReport(_source(path, weights), sorted(found), missing, left, classes))


def load_trunk(module: nn.Module, path: Path) -> str:
    """Loads the backbone's weights: an image classifier's, in detectron2's, Caffe2's or another ResNet's names, or
    those of a whole detector. Returns what matched. Raises UserError when nothing does."""
    weights = read_weights(path)
    if any(name.startswith("backbone.") for name in weights.tensors):
        tensors = {name: value for name, value in weights.tensors.items() if name.startswith("backbone.")}
    else:
        tensors = weights.tensors
    trunk: nn.Module = module.backbone  # type: ignore[assignment]
    own = {f"backbone.{name}": value for name, value in trunk.state_dict().items()}
    caffe = any(name.startswith("res2_") for name in tensors)
    aligned: dict[str, Tensor] = align_and_update_state_dicts(own, dict(tensors), c2_conversion=caffe)
    found = {name: aligned[name] for name in own if name in aligned and aligned[name].shape == own[name].shape}
    if not found:
        raise UserError(f"{path} holds no weights of this backbone; its names begin {some_names(sorted(tensors))}")
    trunk.load_state_dict({name.removeprefix("backbone."): value for name, value in found.items()}, strict=False)
    missing = [name for name in own if name not in found and not _is_derived(name)]
    return str(LoadReport(_source(path, weights), sorted(found), missing, []))


def _source(path: Path, weights: Weights) -> str:
    return f"{path.name}{f' ({weights.part})' if weights.part else ''}"


def _is_derived(name: str) -> bool:
    return name.endswith((*DERIVED, *FEDERATED))
