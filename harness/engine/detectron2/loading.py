"""Weights by name into a detectron2 model, read without executing what is in the file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from backbones import PIXEL_MEAN, PIXEL_STD
from harness.errors import UserError
from harness.weights.file import read_weights
from harness.weights.loading import OUTPUT_NORMS, LoadReport, layout_of, load_by_name, refusal, some_names
from harness.weights.trunk_names import is_detectron2_resnet, named_like, of_trunk

log = logging.getLogger(__name__)

# Buffers that a model computes itself; checkpoints of some versions hold them, others do not.
DERIVED = ("num_batches_tracked", "relative_position_index", "pixel_mean", "pixel_std", "cell_anchors")
FEDERATED = ("freq_weight", "fed_loss_cls_weights")
BELOW_A_PYRAMID = ("backbone.bottom_up.", "backbone.net.")  # FPN's and ViTDet's names for the trunk
RES5 = "roi_heads.res5."  # where detectors without a pyramid keep a ResNet's last stage
HEADS = ("roi_heads.", "proposal_generator.", "head.")


def load_detector(module: nn.Module, path: Path, *, new_classes: bool, averaged: bool = True) -> str:
    """Loads a detector's .pth or .pkl; returns what matched, was missing and was left over.

    `averaged` chooses between raw and averaged weights where a file holds both. With `new_classes`, the model may have
    more classes than the file. Raises UserError when the file lacks a part.
    """
    weights = read_weights(path, averaged=averaged)
    if not any(name.startswith(HEADS) for name in weights.tensors):
        raise refusal(path, layout_of(weights.tensors), "detectron2")
    return str(load_by_name(module, weights, _place_of, may_lack=_is_derived, new_classes=new_classes))


def _place_of(name: str) -> str | None:
    """How frequent classes are is for the dataset to say, not for the file."""
    return None if name.endswith(FEDERATED) else name


def load_trunk(module: nn.Module, path: Path) -> str:
    """Loads the backbone's weights: an image classifier's, in Caffe2's or any engine's names, or a whole detector's.

    Returns what matched. Raises UserError when nothing does, or when a ResNet or Swin does not get all of its own.
    """
    weights = read_weights(path)
    own = {name: value for name, value in module.state_dict().items() if name.startswith(("backbone.", RES5))}
    prefix = next((stem for stem in BELOW_A_PYRAMID if any(name.startswith(stem) for name in own)), "backbone.")
    places = {name.removeprefix(prefix): name for name in own if name.startswith(prefix)}
    places |= {name.removeprefix("roi_heads."): name for name in own if name.startswith(RES5)}
    if any(name.startswith("res2_") for name in weights.tensors):
        tensors: dict[str, Tensor] = align_and_update_state_dicts(own, weights.tensors, c2_conversion=True)
    else:
        trunk = of_trunk(weights.tensors)
        named = named_like(trunk, places)
        tensors = {places.get(name, f"backbone.{name}"): value for name, value in named.items()}
        tensors |= {name: value for name, value in weights.tensors.items() if name.startswith(RES5)}
        if is_detectron2_resnet(places) and not is_detectron2_resnet(trunk):
            _warn_of_caffe(module, path)
    found = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    if not found:
        raise UserError(
            f"{path} holds no weights for this backbone; its names begin with {some_names(sorted(weights.tensors))}"
        )
    missing = [name for name in own if name not in found and not _is_derived(name)]
    required = [name for name, place in places.items() if place in missing and not _may_lack(name)]
    if required and (
        is_detectron2_resnet(places) or any(name.endswith("relative_position_bias_table") for name in places)
    ):
        raise UserError(
            f"{path} lacks {len(required)} of {len(places)} tensors of this backbone, or has them in other shapes: "
            f"{some_names(required)}"
        )
    module.load_state_dict(found, strict=False)
    return str(LoadReport(weights.source, sorted(found), missing, []))


def _may_lack(name: str) -> bool:
    """Caffe2's files have batch norms without statistics, classifiers no norms on outputs."""
    return name.endswith(("running_mean", "running_var")) or name.startswith(OUTPUT_NORMS)


def _warn_of_caffe(module: Any, path: Path) -> None:
    """detectron2's own ResNets are Caffe's by default, which differ from all others in input and strides."""
    resnet = getattr(module.backbone, "bottom_up", module.backbone)
    caffe = resnet.res3[0].conv1.stride == (2, 2) and hasattr(resnet.res3[0], "conv3")
    if caffe or module.input_format == "BGR" or module.pixel_std.max() <= 1:
        log.warning(
            "%s is not one of Caffe's ResNets, for which this configuration is made; engine.overrides should hold "
            "MODEL.RESNETS.STRIDE_IN_1X1=False, INPUT.FORMAT=RGB, MODEL.PIXEL_MEAN=%s and MODEL.PIXEL_STD=%s",
            path,
            list(PIXEL_MEAN),
            list(PIXEL_STD),
        )


def _is_derived(name: str) -> bool:
    return name.endswith((*DERIVED, *FEDERATED))
