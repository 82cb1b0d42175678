"""Names of ResNets' and Swins' weights: whatever naming a file has, a trunk gets its own.

In between is the naming of our trunks: torchvision's for ResNets (timm's and mmdet's too), the official
repository's for Swins (detectron2's and the published detectors' too).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from harness.weights.published_names import RESNET_STEM, SWIN_STEM, TRUNK

# Where a detector keeps its trunk: the published one, the wrappers of the other engines, and any other.
STEMS = (RESNET_STEM, f"{SWIN_STEM}trunk.", SWIN_STEM, f"{TRUNK}trunk.", TRUNK)

# (theirs, ours), special ones first; ^ marks a name's beginning.
MMDET_SWIN = (
    ("^patch_embed.projection.", "^patch_embed.proj."),
    ("^stages.", "^layers."),
    (".attn.w_msa.", ".attn."),
    (".ffn.layers.0.0.", ".mlp.fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
)
DETECTRON2_RESNET = (
    ("^stem.conv1.norm.", "^bn1."),
    ("^stem.conv1.", "^conv1."),
    *((f"^res{stage + 1}.", f"^layer{stage}.") for stage in range(1, 5)),
    (".shortcut.norm.", ".downsample.1."),
    (".shortcut.", ".downsample.0."),
    *((f".conv{place}.norm.", f".bn{place}.") for place in range(1, 4)),
)


def of_trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trunk's entries by their names in it: those of a whole detector's trunk, or all of a file that has no other."""
    whole = any(name.startswith(TRUNK) for name in tensors)
    found = {}
    for name, tensor in tensors.items():
        stem = next((stem for stem in STEMS if name.startswith(stem)), "")
        if stem or not whole:
            found[name.removeprefix(stem)] = tensor
    return found


def named_like(tensors: Mapping[str, Tensor], trunk: Iterable[str]) -> dict[str, Tensor]:
    """A trunk's tensors by the names, and in the layout, of a trunk that has the names `trunk`.

    Those of another family than ResNets and Swins stay as they are.
    """
    found, wanted = _ours(tensors), set(trunk)
    if is_mmdet_swin(wanted):
        return _merged(_renamed(found, [(ours, theirs) for theirs, ours in MMDET_SWIN]), _to_unfolded)
    if is_detectron2_resnet(wanted):
        return _renamed(found, [(ours, theirs) for theirs, ours in DETECTRON2_RESNET])
    return found


def _ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if is_mmdet_swin(tensors):
        return _renamed(_merged(tensors, _from_unfolded), MMDET_SWIN)
    if is_detectron2_resnet(tensors):
        return _renamed(tensors, DETECTRON2_RESNET)
    if _is_timm_swin(tensors):  # patch merging begins a stage of timm's; elsewhere it ends the one before
        return {
            re.sub(
                r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) - 1}.downsample.", name
            ): value
            for name, value in tensors.items()
        }
    return dict(tensors)


def is_mmdet_swin(names: Iterable[str]) -> bool:
    return any(".attn.w_msa." in name for name in names)


def is_detectron2_resnet(names: Iterable[str]) -> bool:
    return any(name.startswith("stem.conv1.") for name in names)


def _is_timm_swin(names: Iterable[str]) -> bool:
    swin = any(name.endswith("relative_position_bias_table") for name in names)
    merging = {name.split(".")[1] for name in names if re.match(r"layers\.\d+\.downsample\.", name)}
    return swin and bool(merging) and "0" not in merging


def _renamed(tensors: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        marked = f"^{name}"
        for old, new in pairs:
            marked = marked.replace(old, new)
        found[marked.removeprefix("^")] = tensor
    return found


# ---------------------------------------------------------------------------------------------------- patch merging
# It joins the four tokens of a 2x2 square. The official one lists them column by column, all channels of a token
# together; mmdet's `nn.Unfold` lists them row by row, all tokens of a channel together.


def _merged(tensors: Mapping[str, Tensor], reorder: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """With `reorder` done to the layers that take the joined tokens: (out, 4C) weights and (4C,) norms."""
    return {name: reorder(tensor) if ".downsample." in name else tensor for name, tensor in tensors.items()}


def _to_unfolded(joined: Tensor) -> Tensor:
    by_token: Tensor = joined.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return by_token.transpose(-1, -2).flatten(-2)


def _from_unfolded(joined: Tensor) -> Tensor:
    by_channel: Tensor = joined.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return by_channel.transpose(-1, -2).flatten(-2)
