"""Reading one instance that can be pasted: from a generated image, or cut out of a training image."""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from kornia_rs.io import decode_image_png_u8

from harness.data.images import TrainingImages
from harness.data.lvis.annotations import rasterise_crop
from harness.data.picture_files import NoPicture, check_encoded, decode, read_picture
from harness.data.pool.packed import read_span
from harness.data.pool.sources import AnnotationSource, FileSource, Span

ALPHA_THRESHOLD = 128
MIN_AREA_SHARE = 0.01  # an instance that covers no more of its own image is rejected


class Fault(Enum):
    """Why a pool image cannot be used."""

    missing = "missing file"
    undecodable = "not an image"
    no_alpha = "no alpha channel and no mask"
    mask_missing = "missing mask file"
    mask_undecodable = "mask is not an image"
    mask_size = "mask of another size than its image"
    empty_mask = "empty mask"
    too_small = "less than 2 pixels wide or high"


class FaultyInstance(ValueError):
    """A pool image that cannot be used; `path` is the file at fault."""

    def __init__(self, fault: Fault, path: str) -> None:
        super().__init__(f"{fault.value}: {path}")
        self.fault = fault
        self.path = path


@dataclass(frozen=True)
class Cutout:
    """An instance cut to its extent: (h, w, 4) uint8 RGBA, its corner (x, y) in its own image and that image's size."""

    rgba: np.ndarray
    corner: tuple[int, int]
    home: tuple[int, int]  # height, width


def read_rgba(source: FileSource) -> np.ndarray:
    """(H, W, 4) uint8 RGBA of a generated image. Raises FaultyInstance."""
    image = _decode(source, source.path, source.span, Fault.missing, Fault.undecodable)
    if source.mask_path is None:
        if image.ndim != 3 or image.shape[2] != 4:
            raise FaultyInstance(Fault.no_alpha, source.path)
        rgba = image
    else:
        mask = _decode(source, source.mask_path, source.mask_span, Fault.mask_missing, Fault.mask_undecodable)
        mask = mask if mask.ndim == 2 else mask[..., -1]
        if mask.shape != image.shape[:2]:
            raise FaultyInstance(Fault.mask_size, source.mask_path)
        rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image[..., :3]
        rgba = np.dstack([rgb, mask])
    if min(rgba.shape[:2]) < 2:
        raise FaultyInstance(Fault.too_small, source.path)
    return rgba


def isolate(rgba: np.ndarray, path: str) -> tuple[Cutout, float]:
    """The largest connected part with alpha above 128, its holes filled, and the share of the image that it covers.

    Raises FaultyInstance when there is none. Source: X-Paste (2212.03863).
    """
    opaque = cv2.threshold(cv2.extractChannel(rgba, 3), ALPHA_THRESHOLD, 1, cv2.THRESH_BINARY)[1]
    outlines = cv2.findContours(opaque, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        raise FaultyInstance(Fault.empty_mask, path)
    largest = max(outlines, key=cv2.contourArea)
    x, y, w, h = cv2.boundingRect(largest)
    inside = cv2.drawContours(np.zeros((h, w), np.uint8), [largest], 0, 1, cv2.FILLED, offset=(-x, -y))
    cut = rgba[y : y + h, x : x + w].copy()
    cut[..., 3] *= inside
    share = cv2.countNonZero(inside) / (rgba.shape[0] * rgba.shape[1])
    return Cutout(cut, (x, y), (rgba.shape[0], rgba.shape[1])), share


def annotated_cutout(images: TrainingImages, source: AnnotationSource) -> Cutout | None:
    """An annotated instance, alpha 255 on its mask; None when its mask has no pixel. Raises UserError as `images`."""
    mask, (x, y) = rasterise_crop(images.annotations, source.annotation)
    if mask.size == 0:
        return None
    image = images.read(source.image)
    h, w = mask.shape
    alpha = mask.astype(np.uint8) * 255
    return Cutout(np.dstack([image[y : y + h, x : x + w], alpha]), (x, y), (image.shape[0], image.shape[1]))


def _decode(source: FileSource, path: str, span: Span | None, missing: Fault, undecodable: Fault) -> np.ndarray:
    """(H, W) or (H, W, 3 or 4) uint8, RGB or RGBA."""
    try:
        content = _content(source, path, span)
    except NoPicture:
        raise FaultyInstance(undecodable, path) from None
    if content is None:
        raise FaultyInstance(undecodable if os.path.isfile(path) else missing, path)
    # Decoding is most of what pasting costs, and kornia's decoder takes 40 % of OpenCV's time for 8-bit RGBA.
    # It raises bare Exceptions for what is damaged.
    with contextlib.suppress(Exception):
        return _decode_rgba(content)
    image = decode(content, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FaultyInstance(undecodable, path)
    image = (image // 256 if image.dtype == np.uint16 else image).astype(np.uint8, copy=False)
    if image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _content(source: FileSource, path: str, span: Span | None) -> bytes | None:
    if not source.archive or not span:
        return read_picture(path)
    content = read_span(source.archive, span)
    check_encoded(content)
    return content


def _decode_rgba(content: bytes) -> np.ndarray:
    """(H, W, 4) uint8 of an 8-bit RGBA PNG, which alone kornia's decoder is asked for. Raises ValueError for others."""
    width, height, depth, colour = struct.unpack_from(">IIBB", content, 16)
    if not content.startswith(b"\x89PNG") or (depth, colour) != (8, 6):
        raise ValueError("no 8-bit RGBA PNG")
    decoded: np.ndarray = decode_image_png_u8(content, (height, width), "rgba")
    return decoded
