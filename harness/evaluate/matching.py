"""Matching detections to ground truth as LVIS prescribes (1908.03195), for many images at once.

Every rule follows the `lvis` package (0.5.3), whose loops over images × categories × areas × thresholds this replaces:
a threshold within an area range is one bit of a 40-bit word, and the greedy choice runs over all (image, category)
pairs in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from harness.data.lvis.annotations import Annotations
from harness.errors import UserError
from harness.evaluate.detections import Detections, Masks
from harness.evaluate.faults import BACKGROUND, NO_TRUTH, find_faults
from harness.evaluate.overlap import Overlaps, Pairs

IouType = Literal["bbox", "segm"]
MAX_DETECTIONS = 300  # per image, over all categories
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]], float)  # both ends included

_T = len(IOU_THRESHOLDS)
_ALL_THRESHOLDS = (1 << _T) - 1
# Bit area * T + threshold; the word of all thresholds of one area, and of the first k thresholds of every area.
_AREA_WORDS = np.array([_ALL_THRESHOLDS << (_T * area) for area in range(len(AREAS))], np.uint64)
_FIRST_WORDS = np.array(
    [sum(((1 << k) - 1) << (_T * area) for area in range(len(AREAS))) for k in range(_T + 1)], np.uint64
)
_NOTHING, _FIRST_BIT = np.uint64(0), np.uint64(1)  # the first bit: an IoU of 0.5, all areas


@dataclass(frozen=True, eq=False)
class Matches:
    """Matched detections of some images, all that average precision and a bootstrap over images are computed from.

    images (I,) int32 evaluated image indices. For D detections that count for their image: image, category (D,) int32
    indices, score (D,) float64, matched and ignored (D, 4) uint16 by area range, one bit an IoU threshold, lowest
    first. For G ground-truth instances: truth_image, truth_category (G,) int32, truth_ignored (G, 4) bool by area.
    Detections of an image and category are ordered by falling score. fault (D,) uint8 and truth (D,) int32, where they
    were asked for: as `find_faults` gives them.
    """

    images: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    truth_image: np.ndarray
    truth_category: np.ndarray
    truth_ignored: np.ndarray
    fault: np.ndarray | None = None
    truth: np.ndarray | None = None

    def ranked(self) -> np.ndarray:
        """The order of the detections by category, falling score, image index and rank in the image."""
        return np.lexsort((self.image, -self.score, self.category))


def merge(parts: Sequence[Matches]) -> Matches:
    """The matches of disjoint sets of images, such as the ranks', as one. Raises ValueError for an image in two."""
    names = [f.name for f in fields(Matches) if all(getattr(part, f.name) is not None for part in parts)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    if "truth" in columns:
        first = np.cumsum([0, *(len(part.truth_image) for part in parts)])[:-1]
        shift = np.repeat(first, [len(part.image) for part in parts])
        columns["truth"] = np.where(columns["truth"] < 0, NO_TRUTH, columns["truth"] + shift).astype(np.int32)
    if len(np.unique(columns["images"])) < len(columns["images"]):
        raise ValueError("an image was matched in more than one part")
    columns["images"] = np.sort(columns["images"])
    return Matches(**columns)


def match(
    annotations: Annotations,
    detections: Detections,
    iou_type: IouType,
    images: np.ndarray | None = None,
    mask_area: bool = False,
    ignore_unknown: bool = False,
    with_faults: bool = False,
) -> Matches:
    """Matches the detections of `images` (image indices; all if None) to their ground truth.

    A detection's size is its box's area, in mask evaluation too, like in the `lvis` package for results that hold both;
    without boxes it is the mask's area. With `mask_area`, mask evaluation takes the mask's area (like detectron2, which
    removes the boxes first). With `ignore_unknown`, detections of categories that the annotations lack take up
    places among an image's best and count for nothing, like in the package. `with_faults` also says what is wrong with
    each false positive, which takes a third more time for masks. Raises UserError, naming the entry, for an unknown
    image or category, a number that is not finite and a mask of another size than its image; and when masks are asked
    for and absent.
    """
    if iou_type == "segm" and detections.masks is None:
        raise UserError("the detections have no masks; evaluate boxes only (--iou bbox)")
    images = np.arange(len(annotations.image_ids)) if images is None else np.unique(images)
    image, category = _checked_indices(annotations, detections, ignore_unknown)
    num_categories = len(annotations.category_ids)

    truth_rows, truth_keys = _truth_rows(annotations, images)
    rows = _top_rows(image, detections.scores, images)
    rows = rows[category[rows] >= 0]
    keys = image[rows] * num_categories + category[rows]
    negative = _listed_keys(annotations.negative_values, annotations.negative_offsets, num_categories)
    counts = _contains(np.union1d(truth_keys, negative), keys)
    rows, keys = rows[counts], keys[counts]
    area = _areas(detections, rows, of_mask=detections.boxes is None or (mask_area and iou_type == "segm"))
    valid = (area > 0) & (area < np.inf)
    rows, keys, area = rows[valid], keys[valid], area[valid]
    order = np.lexsort((-detections.scores[rows], keys))
    rows, keys, area = rows[order], keys[order], area[order]

    pairs = Pairs(annotations, truth_rows, rows, *_shapes(detections, rows, iou_type))
    truth_ignored = annotations.ignore[truth_rows, None] | _outside(annotations.areas[truth_rows])
    # The package marks a match by the annotation's id, so one whose id is 0 is found and yet does not count.
    counting = annotations.annotation_ids[truth_rows] != 0
    own = pairs.overlaps(np.arange(len(rows)), keys, truth_keys, BACKGROUND if with_faults else IOU_THRESHOLDS[0])
    able = own.where(own.iou >= IOU_THRESHOLDS[0])
    matched, on_ignored, of_half = _greedy(able, keys, _words(truth_ignored), counting)
    not_exhaustive = _listed_keys(annotations.not_exhaustive_values, annotations.not_exhaustive_offsets, num_categories)
    excused = _words(_outside(area) | _contains(not_exhaustive, keys)[:, None])
    ignored = on_ignored | (excused & ~matched)

    found = Matches(
        images=images.astype(np.int32),
        image=image[rows].astype(np.int32),
        category=category[rows].astype(np.int32),
        score=detections.scores[rows],
        matched=_by_area(matched),
        ignored=_by_area(ignored),
        truth_image=annotations.annotation_images[truth_rows],
        truth_category=annotations.annotation_categories[truth_rows],
        truth_ignored=truth_ignored,
    )
    if not with_faults:
        return found
    present, wrong = ~truth_ignored[:, 0], ((matched | ignored) & _FIRST_BIT) == 0

    def with_others(chosen: np.ndarray) -> Overlaps:
        near = pairs.overlaps(chosen, found.image[chosen], found.truth_image, BACKGROUND)
        return near.where(present[near.truth] & (keys[near.detection] != truth_keys[near.truth]))

    among = pairs.among_truth(found.truth_image, 0.0)
    among = among.where(truth_keys[among.detection] != truth_keys[among.truth])
    fault, truth = find_faults(of_half, wrong, own.where(present[own.truth]), among, with_others)
    return replace(found, fault=fault, truth=truth)


def _checked_indices(
    annotations: Annotations, detections: Detections, ignore_unknown: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The image and category index of every detection, (N,) int64 each; -1 for an unknown category."""
    source = detections.source
    image, category = (
        np.minimum(np.searchsorted(known, ids), len(known) - 1)
        for known, ids in (
            (annotations.image_ids, detections.image_ids),
            (annotations.category_ids, detections.category_ids),
        )
    )
    for entry in np.flatnonzero(annotations.image_ids[image] != detections.image_ids)[:1]:
        raise UserError(
            f"{source}: entry {entry} names image {detections.image_ids[entry]}, which the annotations do not have"
        )
    unknown = annotations.category_ids[category] != detections.category_ids
    for entry in [] if ignore_unknown else np.flatnonzero(unknown)[:1]:
        raise UserError(
            f"{source}: entry {entry} names category {detections.category_ids[entry]}, which the annotations do not "
            "have; ignore_unknown (--ignore-unknown) skips such entries, as the lvis package does"
        )
    for entry in np.flatnonzero(~np.isfinite(detections.scores))[:1]:
        raise UserError(f"{source}: entry {entry} has score {detections.scores[entry]}")
    if detections.boxes is not None:
        for entry in np.flatnonzero(~np.isfinite(detections.boxes).all(1))[:1]:
            raise UserError(f"{source}: entry {entry} has box {detections.boxes[entry].tolist()}")
    if detections.masks is not None:
        sizes = np.stack([annotations.heights[image], annotations.widths[image]], 1)
        for entry in np.flatnonzero((sizes != detections.masks.sizes).any(1))[:1]:
            size, wanted = detections.masks.sizes[entry].tolist(), sizes[entry].tolist()
            raise UserError(f"{source}: entry {entry} has a mask of {size} (height, width), but its image is {wanted}")
    return image, np.where(unknown, -1, category)


def _truth_rows(annotations: Annotations, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Annotations of the images that have an area, by ascending key (image, category), and those keys."""
    rows = np.flatnonzero(
        np.isin(annotations.annotation_images, images) & (annotations.areas > 0) & (annotations.areas < np.inf)
    )
    keys = annotations.annotation_images[rows].astype(np.int64) * len(annotations.category_ids)
    keys += annotations.annotation_categories[rows]
    order = np.argsort(keys, kind="stable")
    return rows[order], keys[order]


def _top_rows(image: np.ndarray, scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The best detections of each of the images, at most MAX_DETECTIONS, equal scores in their given order."""
    rows = np.flatnonzero(np.isin(image, images))
    rows = rows[np.lexsort((-scores[rows], image[rows]))]
    rank = np.arange(len(rows)) - np.searchsorted(image[rows], image[rows], side="left")
    return rows[rank < MAX_DETECTIONS]


def _listed_keys(values: np.ndarray, offsets: np.ndarray, num_categories: int) -> np.ndarray:
    """The ascending keys (image, category) of a list of categories per image."""
    image = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.unique(image * num_categories + values)


def _contains(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of the wanted keys are among the ascending keys."""
    if len(keys) == 0:
        return np.zeros(len(wanted), bool)
    found: np.ndarray = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
    return found


def _areas(detections: Detections, rows: np.ndarray, of_mask: bool) -> np.ndarray:
    if of_mask:
        from pycocotools import mask as mask_utils

        assert detections.masks is not None
        # pycocotools 2.0.11 puts the number of masks into a uint8, which NumPy 2 refuses above 255.
        batches = [detections.masks.rles(rows[a : a + 255]) for a in range(0, len(rows), 255)]
        return np.concatenate([np.zeros(0), *map(mask_utils.area, batches)])
    boxes = _boxes(detections, rows)
    with np.errstate(over="ignore"):  # of boxes of 1e300 pixels
        areas: np.ndarray = boxes[:, 2] * boxes[:, 3]
    return areas


def _boxes(detections: Detections, rows: np.ndarray) -> np.ndarray:
    """(n, 4) float64 x, y, width, height: as given, else the masks' extents."""
    if detections.boxes is not None:
        given: np.ndarray = detections.boxes[rows]
        return given
    from pycocotools import mask as mask_utils

    assert detections.masks is not None
    return np.asarray(mask_utils.toBbox(detections.masks.rles(rows)), float).reshape(-1, 4)


def _shapes(detections: Detections, rows: np.ndarray, iou_type: IouType) -> tuple[np.ndarray | None, Masks | None]:
    """What IoU is taken of: the boxes of the rows, or the masks."""
    return (_boxes(detections, rows), None) if iou_type == "bbox" else (None, detections.masks)


def _outside(area: np.ndarray) -> np.ndarray:
    """(n, 4) bool: areas outside each area range."""
    return (area[:, None] < AREA_RANGES[:, 0]) | (area[:, None] > AREA_RANGES[:, 1])


def _words(by_area: np.ndarray) -> np.ndarray:
    """(n,) uint64: all threshold bits of the areas that are true in (n, 4) bool."""
    words: np.ndarray = (by_area * _AREA_WORDS).sum(1, dtype=np.uint64)
    return words


def _by_area(words: np.ndarray) -> np.ndarray:
    shifts = np.arange(len(AREAS), dtype=np.uint64) * np.uint64(_T)
    bits: np.ndarray = (words[:, None] >> shifts) & np.uint64(_ALL_THRESHOLDS)
    return bits.astype(np.uint16)


def _greedy(
    overlaps: Overlaps, keys: np.ndarray, truth_ignored: np.ndarray, counting: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each detection in turn takes the free ground truth of greatest IoU, ignored ones only when no other is left.

    Among equal IoUs the last wins. Returns (D,) uint64 words: matched, and matched to ignored ground truth; and (D,)
    the ground truth that counts as found at an IoU of 0.5, NO_TRUTH without. Offers, a detection's ground truths from
    best to worst, are processed in rank order, all (image, category) pairs in step: within one step no two offers
    concern the same detection or the same ground truth.
    """
    matched = np.zeros(len(keys), np.uint64)
    settled, on_ignored, found = matched.copy(), matched.copy(), np.full(len(keys), NO_TRUTH)
    taken = np.zeros(len(truth_ignored), np.uint64)
    reached = _FIRST_WORDS[np.searchsorted(IOU_THRESHOLDS, overlaps.iou, side="right")]
    ignored = truth_ignored[overlaps.truth]
    is_ignored = np.repeat([False, True], len(reached))
    bits = np.concatenate([reached & ~ignored, reached & ignored])
    detection, truth = np.tile(overlaps.detection, 2), np.tile(overlaps.truth, 2)
    offers = np.lexsort((-truth, -np.tile(overlaps.iou, 2), is_ignored, detection))
    offers = offers[bits[offers] != 0]
    pair = keys[detection[offers]]
    step = np.arange(len(offers)) - np.searchsorted(pair, pair, side="left")
    offers = offers[np.argsort(step, kind="stable")]
    detection, truth, bits, is_ignored = detection[offers], truth[offers], bits[offers], is_ignored[offers]
    ends = np.cumsum(np.bincount(step)).tolist()
    for start, end in pairwise([0, *ends]):
        d, g = detection[start:end], truth[start:end]
        take = bits[start:end] & ~taken[g] & ~settled[d]
        taken[g] |= take
        settled[d] |= take
        matched[d] |= np.where(counting[g], take, _NOTHING)
        on_ignored[d] |= np.where(is_ignored[start:end], take, _NOTHING)
        first = ((take & _FIRST_BIT) != 0) & counting[g] & ~is_ignored[start:end]
        found[d[first]] = g[first]
    return matched, on_ignored, found
