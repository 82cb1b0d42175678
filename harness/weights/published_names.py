"""The published code's parameter names and ours: the same leaves below other stems."""

from __future__ import annotations

# (published stem, our stem), more special ones first. A Swin's trunk lies at `bottom_up`, a timm ResNet's one below.
STEMS = (
    ("backbone.bottom_up.base.", "backbone."),
    ("backbone.bottom_up.", "backbone."),
    ("backbone.", "fpn."),
    ("proposal_generator.centernet_head.", "proposal_network."),
    ("roi_heads.box_head.", "cascade.box_head."),
    ("roi_heads.box_predictor.", "cascade.box_predictor."),
    ("roi_heads.mask_head.", "mask_head."),
)
TRUNK = "backbone."
RESNET_STEM, SWIN_STEM = STEMS[0][0], STEMS[1][0]

# In published files, and derived, unused or counted elsewhere in ours.
DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask", "freq_weight", "pixel_mean", "pixel_std")
# BSGAL's gradient cache, and the ImageNet classifier that the published ResNet drags along.
UNUSED = ("grad_bank.weight", f"{RESNET_STEM}fc.weight", f"{RESNET_STEM}fc.bias")


def ours(published: str) -> str | None:
    """Our name of a published parameter or buffer; None for one that is of another model."""
    for theirs, stem in STEMS:
        if published.startswith(theirs):
            return stem + published.removeprefix(theirs)
    return None


def published(name: str, *, resnet: bool) -> str:
    """The published name of ours; `resnet` says which family the trunk is of. Raises KeyError for another name."""
    if name.startswith(TRUNK):
        return (RESNET_STEM if resnet else SWIN_STEM) + name.removeprefix(TRUNK)
    for theirs, stem in STEMS[2:]:
        if name.startswith(stem):
            return theirs + name.removeprefix(stem)
    raise KeyError(name)


def is_optional(published_name: str) -> bool:
    """Whether a published entry may be missing, or be left over, without loss."""
    return published_name in UNUSED or published_name.rsplit(".", 1)[-1] in DERIVED
