"""Pictures for people: images with their targets, pool instances, many of them on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]

FONT_SIZE = 12
LINE_HEIGHT = 15
PAPER, INK = (250, 250, 250), (20, 20, 20)


def contact_sheet(
    images: Sequence[Picture], captions: Sequence[str] | None = None, columns: int = 6, gap: int = 8
) -> Picture:
    """Lay (h, w, 3) uint8 RGB images of any sizes out in rows, with captions of one or more lines below them.

    Returns (H, W, 3) uint8 RGB. Raises ValueError without images or with another number of captions.
    """
    captions = [""] * len(images) if captions is None else list(captions)
    if not images or len(captions) != len(images):
        raise ValueError(f"{len(images)} images and {len(captions)} captions do not make a sheet")
    columns = min(columns, len(images))
    lines = max(caption.count("\n") + 1 if caption else 0 for caption in captions)
    cell_width = max(image.shape[1] for image in images)
    cell_height = max(image.shape[0] for image in images)
    step_x, step_y = cell_width + gap, cell_height + lines * LINE_HEIGHT + gap
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = gap + i % columns * step_x, gap + i // columns * step_y
        sheet.paste(Image.fromarray(image), (x, y))
        for number, line in enumerate(caption.splitlines()):
            pen.text((x, y + cell_height + 2 + number * LINE_HEIGHT), _shorten(line, cell_width), INK, _font())
    return np.asarray(sheet).copy()


def draw_targets(
    image: Picture,
    boxes: NDArray[np.floating[Any]] | None = None,
    masks: NDArray[Any] | None = None,
    labels: Sequence[str] | None = None,
    highlight: Sequence[bool] | None = None,
    zoom: int = 3,
) -> Picture:
    """Outline targets on an image (h, w, 3) uint8 RGB, `zoom` times enlarged.

    boxes (n, 4) xyxy pixels; masks (n, h, w), non-zero inside; labels, one text each; highlight draws a target with a
    white rim (pasted ones, say). Boxes are thin where there are masks too. Returns (zoom h, zoom w, 3) uint8 RGB.
    """
    canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    count = len(masks) if masks is not None else len(boxes) if boxes is not None else 0
    anchors = []
    for i in range(count):
        color = _color(i)
        rims = [(color, 2)] if highlight is None or not highlight[i] else [((255, 255, 255), 5), (color, 2)]
        outline = _outline(masks[i], zoom) if masks is not None else _rectangle(boxes, i, zoom)
        if masks is not None and boxes is not None:
            cv2.polylines(canvas, _rectangle(boxes, i, zoom), True, color, 1, cv2.LINE_AA)
        for rim, thickness in rims:
            cv2.polylines(canvas, outline, True, rim, thickness, cv2.LINE_AA)
        points = np.concatenate(outline)[:, 0] if outline else np.zeros((1, 2), int)
        anchors.append(points.min(0))
    return _write_labels(canvas, anchors, labels) if labels is not None else canvas


def on_checkerboard(rgba: Picture, zoom: int = 1, square: int = 8) -> Picture:
    """Show an (h, w, 4) uint8 RGBA picture on a checkerboard. Returns (zoom h, zoom w, 3) uint8 RGB."""
    large = cv2.resize(rgba, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    y, x = np.indices(large.shape[:2]) // square
    board = np.where((x + y) % 2 == 0, 225, 180).astype(np.float32)[..., None]
    share = large[..., 3:].astype(np.float32) / 255
    return np.round(large[..., :3] * share + board * (1 - share)).astype(np.uint8)


def _color(i: int) -> tuple[int, int, int]:
    """Colours that stay apart for any number of targets: hues a golden angle apart."""
    hsv = np.array([[[int(i * 137.5) % 180, 230, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _outline(mask: NDArray[Any], zoom: int) -> list[NDArray[Any]]:
    large = cv2.resize((mask > 0).astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    return list(cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0])


def _rectangle(boxes: NDArray[Any] | None, i: int, zoom: int) -> list[NDArray[Any]]:
    assert boxes is not None
    x0, y0, x1, y1 = np.round(boxes[i] * zoom).astype(int).tolist()
    return [np.array([[[x0, y0]], [[x1, y0]], [[x1, y1]], [[x0, y1]]])]


def _write_labels(canvas: Picture, anchors: list[NDArray[Any]], labels: Sequence[str]) -> Picture:
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    for i, (anchor, label) in enumerate(zip(anchors, labels, strict=True)):
        width = pen.textlength(label, _font()) + 6
        x = float(np.clip(anchor[0], 0, max(picture.width - width, 0)))
        y = float(np.clip(anchor[1] - LINE_HEIGHT, 0, picture.height - LINE_HEIGHT))
        while any(x < x1 and x + width > x0 and y < y1 and y + LINE_HEIGHT > y0 for x0, y0, x1, y1 in taken):
            y += LINE_HEIGHT
        taken.append((x, y, x + width, y + LINE_HEIGHT))
        pen.rectangle((x, y, x + width, y + LINE_HEIGHT - 1), fill=(0, 0, 0))
        pen.text((x + 3, y + 1), label, tuple(128 + part // 2 for part in _color(i)), _font())
    return np.asarray(picture).copy()


def _shorten(text: str, width: int) -> str:
    while text and _font().getlength(text) > width:
        text = text[:-2].rstrip(".") + "."
    return text


def _font() -> Any:
    return ImageFont.load_default(FONT_SIZE)
