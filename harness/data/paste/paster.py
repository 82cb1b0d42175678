"""Pasting what a method drew into an image: how large, where, and what remains of the instances below.

Source: X-Paste (2212.03863) and, for categories without area statistics, DiverGen (2405.10185); `AS_IT_LIES` is simple
copy-paste (2012.07177).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil

import cv2
import numpy as np

from harness.config import Blending, DataConfig
from harness.data.augment import Jitter, draw_jitter
from harness.data.images import TrainingImages
from harness.data.paste.area_statistics import AreaStatistics
from harness.data.paste.composite import hide, lay
from harness.data.paste.cutout import MIN_AREA_SHARE, Cutout, FaultyInstance, annotated_cutout, isolate, read_rgba
from harness.data.pool.pool import InstancePool
from harness.data.pool.sources import AnnotationSource, FileSource
from harness.data.targets import Instance, tightened, visible_instance
from methods.contract import Draw, PasteRule

MIN_SIDE = 10  # pixels: lower bound of the root of an instance's area, relative to the view's height
MAX_SHARE = 0.5  # upper bound of the same, of the view's height
ASPECT_JITTER = 0.2
SMALLEST_SIDE = 5  # pixels; smaller ones are rejected
FREE_SCALE = (0.05, 0.3)  # of the source's pixels, for categories without statistics
FREE_SMALLEST_SIDE = 3
JITTER_SHARE = 0.5  # of instances that colour jitter changes

log = logging.getLogger(__name__)
MOST_REPORTED = 50  # files that a worker names in the log; all are counted
_reported: set[str] = set()


@dataclass
class Paster:
    """Pastes draws into views. Made once per worker."""

    pool: InstancePool
    images: TrainingImages
    areas: AreaStatistics
    config: DataConfig

    def paste(
        self, image: np.ndarray, instances: Sequence[Instance], draw: Draw, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Instance], Counter[str]]:
        """A new (H, W, 3) uint8 RGB image and its instances, and how many pool files failed, by fault and file.

        The new image is larger where training instances pasted at their original position reach beyond it. Arguments
        stay unchanged. When nothing shows, returns `image` itself.
        """
        canvas, shown, skipped = image, list(instances), Counter[str]()
        for home, places in self._groups(draw):
            if home is not None:
                scene = self._scene(home, places, draw, rng)
                if scene:
                    canvas, shown = self._overlaid(canvas, shown, home, scene)
                continue
            try:
                placed = self._placed(places[0], draw, canvas.shape[:2], rng)
            except FaultyInstance as fault:
                skipped[str(fault)] += 1
                _report(fault)
                continue
            if placed is None:
                continue
            rgba, corner, threshold = placed
            if canvas is image:
                canvas = image.copy()
            laid = lay(canvas, rgba, corner, _blending(self.config.paste.blending, rng), threshold)
            if laid is None:
                continue
            mask, x, y = laid
            shown = hide(shown, mask, x, y)
            pasted = tightened(Instance(mask, x, y, int(draw.categories[places[0]]), int(draw.rows[places[0]])))
            if pasted is not None:
                shown.append(pasted)
        changed = any(instance.pool_row >= 0 for instance in shown)
        return canvas if changed else image, shown, skipped

    def _groups(self, draw: Draw) -> Iterator[tuple[int | None, list[int]]]:
        """Places of the draw in pasting order, each by itself; but those that lie as in one training image together,
        with that image's index."""

        def home_of(place: int) -> int | None:
            if draw.rule_of(place) is not PasteRule.AS_IT_LIES:
                return None
            source = self.pool.source(int(draw.rows[place]))
            return source.image if isinstance(source, AnnotationSource) else None

        for home, places in groupby(range(len(draw.rows)), home_of):
            if home is None:
                yield from ((None, [place]) for place in places)
            else:
                yield home, list(places)

    # ------------------------------------------------------------------------------ training instances, as they lie

    def _scene(
        self, home: int, places: list[int], draw: Draw, rng: np.random.Generator
    ) -> tuple[Jitter, list[Instance]] | None:
        """A training image's view by itself, and the instances of it that are pasted; None when there is none."""
        known, side = self.images.annotations, self.config.size
        size = int(known.heights[home]), int(known.widths[home])
        jitter = draw_jitter(size, (side, side), (self.config.scale_min, self.config.scale_max), self.config.flip, rng)
        seen = []
        for place in places:
            row = int(draw.rows[place])
            source = self.pool.source(row)
            assert isinstance(source, AnnotationSource)
            instance = visible_instance(known, source.annotation, jitter)
            if instance is not None:
                seen.append(replace(instance, label=int(draw.categories[place]), pool_row=row))
        if draw.at_most is not None:
            count = int(rng.integers(0, min(len(seen), draw.at_most) + 1))
            seen = [seen[i] for i in rng.choice(len(seen), count, replace=False)] if count else []
        return (jitter, seen) if seen else None

    def _overlaid(
        self, canvas: np.ndarray, shown: list[Instance], home: int, scene: tuple[Jitter, list[Instance]]
    ) -> tuple[np.ndarray, list[Instance]]:
        """Canvas and instances with a scene's instances over them, corner on corner.

        They hide what lies below and not one another; the canvas grows, black, to hold their boxes. Source: X-Paste.
        """
        jitter, pasted = scene
        height = max(canvas.shape[0], *(ceil(instance.box[3]) for instance in pasted))
        width = max(canvas.shape[1], *(ceil(instance.box[2]) for instance in pasted))
        grown = np.zeros((height, width, 3), np.uint8)
        grown[: canvas.shape[0], : canvas.shape[1]] = canvas
        mask, x, y = _union(pasted)
        window = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
        pixels = jitter.image(self.images.read(home))[window]
        np.copyto(grown[window], pixels, where=mask.view(bool)[..., None])
        return grown, [*hide(shown, mask, x, y), *pasted]

    # --------------------------------------------------------------------------------------------- single instances

    def _placed(
        self, place: int, draw: Draw, view: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[int, int], int] | None:
        """The cut-out in its final size, its corner and the alpha above which it counts; None when it is rejected."""
        row = int(draw.rows[place])
        source = self.pool.source(row)
        if draw.rule_of(place) is PasteRule.AS_IT_LIES:
            cutout, side = self._cutout(source), self.config.size
            if cutout is None:
                return None
            scale = self.config.scale_min, self.config.scale_max
            return _as_it_lies(cutout, draw_jitter(cutout.home, (side, side), scale, self.config.flip, rng))
        category = int(self.pool.categories[row])
        known = self.areas.has(category)
        if known or isinstance(source, AnnotationSource):
            cutout = self._cutout(source)
            if cutout is None:
                return None
            rgba = cutout.rgba
        else:
            rgba = read_rgba(source)
        shape = rgba.shape[0], rgba.shape[1]
        if known:
            size = area_size(shape, view, self.areas.mean[category], self.areas.std[category], rng)
        else:
            size = free_size(shape, view, rng)
        return None if size is None else self._anywhere(rgba, size, view, rng)

    def _cutout(self, source: FileSource | AnnotationSource) -> Cutout | None:
        if isinstance(source, AnnotationSource):
            return annotated_cutout(self.images, source)
        rgba = read_rgba(source)
        if source.isolated:
            return Cutout(rgba, (0, 0), (rgba.shape[0], rgba.shape[1]))
        cutout, share = isolate(rgba, source.path)
        degenerate = share <= MIN_AREA_SHARE or share >= 1 or min(cutout.rgba.shape[:2]) < 2
        return None if degenerate else cutout

    def _anywhere(
        self, rgba: np.ndarray, size: tuple[int, int], view: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[int, int], int]:
        rgba = cv2.resize(rgba, size[::-1])
        if rng.random() < 0.5:
            rgba = cv2.flip(rgba, 1)
        if self.config.paste.rotation:
            rgba = _rotated(rgba, rng.uniform(-self.config.paste.rotation, self.config.paste.rotation))
        if self.config.paste.jitter and rng.random() < JITTER_SHARE:
            rgba = _color_jittered(rgba, self.config.paste.jitter, rng)
        return rgba, (_corner(rgba.shape[1], view[1], rng), _corner(rgba.shape[0], view[0], rng)), 0


def _blending(asked: Blending, rng: np.random.Generator) -> Blending:
    if asked is not Blending.random:
        return asked
    single = [blending for blending in Blending if blending is not Blending.random]
    return single[int(rng.integers(len(single)))]


def _corner(side: int, view: int, rng: np.random.Generator) -> int:
    """Where along one axis an instance of `side` pixels begins so that its centre is uniform over the view's pixels.

    Both ends are truncated towards zero, like the published code: an odd side has one place fewer.
    """
    return int(rng.integers(int(-side / 2), int(view - side / 2)))


def _union(instances: Sequence[Instance]) -> tuple[np.ndarray, int, int]:
    """(h, w) uint8 0/1, the instances' masks together, and its corner x, y."""
    extents = np.array([instance.extent for instance in instances])
    (x, y), (right, bottom) = extents[:, :2].min(0).tolist(), extents[:, 2:].max(0).tolist()
    mask = np.zeros((bottom - y, right - x), np.uint8)
    for instance in instances:
        left, top, end, low = instance.extent
        mask[top - y : low - y, left - x : end - x] |= instance.mask
    return mask, x, y


def area_size(
    cutout: tuple[int, int], view: tuple[int, int], mean: float, std: float, rng: np.random.Generator
) -> tuple[int, int] | None:
    """(height, width) in pixels by X-Paste's rule; None when a side is below 5 pixels or not below the view's.

    mean and std are of the category's square root of relative area; `cutout` gives the aspect ratio.
    """
    height, width = view
    side = min(max(mean + rng.standard_normal() * std, MIN_SIDE / height), MAX_SHARE)
    aspect = cutout[1] / cutout[0] * rng.uniform(1 - ASPECT_JITTER, 1 + ASPECT_JITTER)
    exact = np.sqrt(aspect * side**2 * height * width)
    return _accepted((int(exact / aspect), int(exact)), view, SMALLEST_SIDE)


def free_size(image: tuple[int, int], view: tuple[int, int], rng: np.random.Generator) -> tuple[int, int] | None:
    """(height, width) in pixels by DiverGen's rule for categories without statistics; None when rejected."""
    factor = rng.uniform(*FREE_SCALE)
    return _accepted((int(image[0] * factor), int(image[1] * factor)), view, FREE_SMALLEST_SIDE)


def _accepted(size: tuple[int, int], view: tuple[int, int], smallest: int) -> tuple[int, int] | None:
    return size if min(size) >= smallest and size[0] < view[0] and size[1] < view[1] else None


def _as_it_lies(cutout: Cutout, jitter: Jitter) -> tuple[np.ndarray, tuple[int, int], int] | None:
    """The cut-out where its home image's jitter puts it."""
    x, y = cutout.corner
    h, w = cutout.rgba.shape[:2]
    points = jitter.points(np.array([x, y, x + w, y + h], np.float64))
    x0, x1 = sorted(points[0::2])
    y0, y1 = sorted(points[1::2])
    size = max(1, round(x1 - x0)), max(1, round(y1 - y0))
    how = cv2.INTER_AREA if size[0] < w else cv2.INTER_LINEAR
    rgba = cv2.resize(cutout.rgba, size, interpolation=how)
    # Half-covered pixels belong to it, so that the mask keeps its size at any scale.
    return cv2.flip(rgba, 1) if jitter.flip else rgba, (round(x0), round(y0)), 127


def _rotated(rgba: np.ndarray, degrees: float) -> np.ndarray:
    h, w = rgba.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    width, height = int(np.ceil(w * cosine + h * sine)), int(np.ceil(w * sine + h * cosine))
    matrix[:, 2] += (width - w) / 2, (height - h) / 2
    return cv2.warpAffine(rgba, matrix, (width, height))


def _color_jittered(rgba: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue each by up to `strength`, 0..0.5."""
    import torch
    from torchvision.transforms.v2 import functional

    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    image = torch.from_numpy(rgba[..., :3].copy()).permute(2, 0, 1)
    image = functional.adjust_brightness(image, brightness)
    image = functional.adjust_contrast(image, contrast)
    image = functional.adjust_saturation(image, saturation)
    image = functional.adjust_hue(image, rng.uniform(-strength, strength))
    return np.dstack([image.permute(1, 2, 0).numpy(), rgba[..., 3]])


def _report(fault: FaultyInstance) -> None:
    if fault.path not in _reported and len(_reported) < MOST_REPORTED:
        _reported.add(fault.path)
        log.warning("pool image skipped: %s", fault)
