"""Procedural pictures for the embedded dataset: objects made of shape x texture x hue, and the clutter behind them.

Colours are RGB in 0..1. Everything is a function of the generator that is handed in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# What sets the difficulty of the dataset, in one place.
CLUTTER_PIECES = (5, 11)  # textured patches behind the objects of an image, fewest and most
CLUTTER_STROKES = (3, 9)
HUE_JITTER = 9.0  # standard deviation in degrees between instances of one category
SATURATION = (0.55, 0.85)
VALUE = (0.6, 0.95)
SHADING = (0.05, 0.3)  # strength of the light's gradient across a real object
POOL_SHADING = (0.25, 0.5)  # and across a generated one
IMAGE_GAIN = (0.75, 1.15)
IMAGE_NOISE = (1.0, 4.5)  # standard deviation in grey levels
IMAGE_BLUR = (0.0, 0.6)  # sigma in pixels
POOL_BLUR = (0.7, 1.3)  # sigma in pixels at the pool's resolution
POOL_HUE_SHIFT = {"soft": 7.0, "toon": -7.0}  # degrees, the same for every instance of a generator

SUPERSAMPLING = 4


@dataclass(frozen=True)
class Look:
    """What tells a category from another: names in SHAPES and TEXTURES, hue in degrees, accent `light` or `dark`."""

    shape: str
    texture: str
    hue: float
    accent: str = "light"


@dataclass(frozen=True)
class Pose:
    """Longest extent before rotation in pixels, rotation in radians, height over width, mirrored or not."""

    extent: float
    angle: float
    aspect: float
    mirrored: bool


@dataclass(frozen=True)
class Light:
    """How an object is lit: strength and direction of the gradient across it, gain, shifts of its hue in degrees."""

    shading: float
    direction: float
    gain: float = 1.0
    hue_shift: float = 0.0
    saturation_gain: float = 1.0


@dataclass(frozen=True)
class Cutout:
    """An object alone: colour (h, w, 3) and coverage (h, w), both float32 in 0..1."""

    color: Array
    alpha: Array


# --- shapes: outlines as polygons in a square of side 2, y downwards -------------------------------------------------


def _fit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre the outline and scale its longer side to 2."""
    low, high = points.min(0), points.max(0)
    fitted: NDArray[np.float64] = (points - (low + high) / 2) * (2.0 / (high - low).max())
    return fitted


def _polar(radius: Callable[[NDArray[np.float64]], NDArray[np.float64]], points: int = 96) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    r = radius(angle)
    return _fit(np.stack([r * np.sin(angle), -r * np.cos(angle)], 1))


def _regular(corners: int, inner: float = 0.0) -> NDArray[np.float64]:
    """A regular polygon, or a star when an inner radius is given."""
    count = corners * (2 if inner else 1)
    angle = np.arange(count) * 2 * np.pi / count
    r = np.where(np.arange(count) % 2 == 1, inner, 1.0) if inner else np.ones(count)
    return _fit(np.stack([r * np.sin(angle), -r * np.cos(angle)], 1))


def _outline(*points: tuple[float, float]) -> NDArray[np.float64]:
    return _fit(np.array(points, np.float64))


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _fit(np.stack([16 * np.sin(t) ** 3, -y], 1))


def _drop() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return _fit(np.stack([np.sin(t) * np.abs(np.sin(t / 2)) ** 1.6, -np.cos(t)], 1))


def _crescent() -> NDArray[np.float64]:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 48)
    inner = np.linspace(1.68 * np.pi, 0.32 * np.pi, 32)
    far = np.stack([np.cos(outer), np.sin(outer)], 1)
    near = np.stack([0.42 + 0.62 * np.cos(inner), 0.72 * np.sin(inner)], 1)
    return _fit(np.concatenate([far, near]))


def _fish() -> NDArray[np.float64]:
    t = np.linspace(0.12 * np.pi, 1.88 * np.pi, 48)
    body = np.stack([-np.cos(t), 0.55 * np.sin(t)], 1) * (-1, 1)
    tail = np.array([(1.5, -0.6), (1.3, 0.0), (1.5, 0.6)])
    return _fit(np.concatenate([body, tail]))


def _mushroom() -> NDArray[np.float64]:
    t = np.linspace(np.pi, 2 * np.pi, 32)
    cap = np.stack([np.cos(t), 0.9 * np.sin(t)], 1)
    stem = np.array([(0.35, 0.0), (0.45, 0.85), (-0.45, 0.85), (-0.35, 0.0)])
    return _fit(np.concatenate([cap, stem]))


def _blob(waves: tuple[tuple[int, float, float], ...]) -> NDArray[np.float64]:
    return _polar(lambda t: 1 + np.sum([size * np.cos(count * t + phase) for count, size, phase in waves], 0))


SHAPES: dict[str, NDArray[np.float64]] = {
    "disc": _polar(lambda t: np.ones_like(t)),
    "square": _outline((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": _regular(3),
    "star": _regular(5, inner=0.48),
    "hexagon": _regular(6),
    "heart": _heart(),
    "drop": _drop(),
    "cross": _outline(
        *((-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36)),
        *((0.36, 1), (-0.36, 1), (-0.36, 0.36), (-1, 0.36), (-1, -0.36), (-0.36, -0.36)),
    ),
    "crescent": _crescent(),
    "arrow": _outline((-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)),
    "flower": _polar(lambda t: 0.72 + 0.28 * np.cos(5 * t)),
    "house": _outline((-0.75, 1), (-0.75, -0.1), (-1, -0.1), (0, -1), (1, -0.1), (0.75, -0.1), (0.75, 1)),
    "mushroom": _mushroom(),
    "fish": _fish(),
    "bottle": _outline(
        *((-0.2, -1), (0.2, -1), (0.2, -0.45), (0.5, -0.1), (0.5, 1), (-0.5, 1), (-0.5, -0.1), (-0.2, -0.45)),
    ),
    "gear": _polar(lambda t: np.where(np.cos(8 * t) > 0, 1.0, 0.72), 256),
    "bolt": _outline((0.2, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.25), (0.05, -0.25), (0.45, -1)),
    "leaf": _polar(lambda t: 0.35 + 0.65 * np.cos(t) ** 2),
    "crown": _outline((-1, 0.7), (-1, -0.6), (-0.5, 0.05), (0, -0.8), (0.5, 0.05), (1, -0.6), (1, 0.7)),
    "tee": _outline((-1, -1), (1, -1), (1, -0.4), (0.3, -0.4), (0.3, 1), (-0.3, 1), (-0.3, -0.4), (-1, -0.4)),
}
BLOBS = {
    "blob0": _blob(((2, 0.35, 0.3), (3, 0.25, 1.0))),
    "blob1": _blob(((1, 0.3, 0.0), (4, 0.3, 0.5))),
    "blob2": _blob(((3, 0.4, 2.0), (7, 0.15, 0.0))),
    "blob3": _blob(((2, 0.5, 1.2), (5, 0.2, 0.7))),
    "blob4": _blob(((1, 0.45, 1.0), (2, 0.3, 2.2), (6, 0.12, 0.0))),
    "blob5": _blob(((4, 0.25, 0.0), (3, 0.3, 0.9), (9, 0.1, 0.0))),
}


# --- textures: share of the accent colour at (u, v) in a square of side 2 --------------------------------------------


def _step(x: Array) -> Array:
    step: Array = np.clip(x * 3 + 0.5, 0, 1)
    return step


Texture = Callable[[Array, Array, float], Array]
TEXTURES: dict[str, Texture] = {
    "plain": lambda u, v, phase: np.zeros_like(u),
    "striped": lambda u, v, phase: _step(np.sin(4.2 * np.pi / 2 * u + phase)),
    "dotted": lambda u, v, phase: _step(np.cos(5 * np.pi / 2 * u + phase) + np.cos(5 * np.pi / 2 * v) - 0.5),
    "checked": lambda u, v, phase: _step(3 * np.sin(3.4 * np.pi / 2 * u + phase) * np.sin(3.4 * np.pi / 2 * v)),
    "ringed": lambda u, v, phase: _step(np.sin(4.6 * np.pi / 2 * 1.3 * np.hypot(u, v) + 0.4 * np.sin(phase))),
    "halved": lambda u, v, phase: _step(3 * (v - 0.2 * np.sin(phase))),
    "cored": lambda u, v, phase: _step(4 * (0.42 - np.hypot(u, v))),
}


# --- objects ---------------------------------------------------------------------------------------------------------


def fill(shape: str) -> float:
    """Share of its square that a shape covers."""
    return float(cv2.contourArea(SHAPES[shape].astype(np.float32))) / 4


def draw_pose(rng: np.random.Generator, extent: float, turn: float = 0.45) -> Pose:
    """A pose of the given extent (pixels), rotated by up to `turn` radians either way."""
    return Pose(
        extent=extent,
        angle=float(rng.uniform(-turn, turn)),
        aspect=float(np.exp(rng.uniform(-0.15, 0.15))),
        mirrored=bool(rng.random() < 0.5),
    )


def _palette(look: Look, light: Light, rng: np.random.Generator) -> tuple[Array, Array]:
    """Main and accent colour of one instance."""
    hue = ((look.hue + light.hue_shift + rng.normal(0, HUE_JITTER)) / 360) % 1
    saturation = float(np.clip(rng.uniform(*SATURATION) * light.saturation_gain, 0, 1))
    value = float(rng.uniform(*VALUE))
    main = colorsys.hsv_to_rgb(hue, saturation, value)
    accent = (hue, saturation * 0.25, 0.97) if look.accent == "light" else (hue, saturation, value * 0.3)
    return np.array(main, np.float32), np.array(colorsys.hsv_to_rgb(*accent), np.float32)


def render_object(look: Look, pose: Pose, light: Light, rng: np.random.Generator) -> Cutout:
    """An object tight in its window, with antialiased coverage."""
    half = np.array([1.0, 1.0]) * pose.extent / 2 * np.array([pose.aspect**-0.5, pose.aspect**0.5])
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    mirror = np.diag([-1.0 if pose.mirrored else 1.0, 1.0])
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.diag(half) @ mirror
    outline = SHAPES[look.shape] if look.shape in SHAPES else BLOBS[look.shape]
    points = outline @ forward.T
    low = np.floor(points.min(0)).astype(int) - 1
    width, height = (np.ceil(points.max(0)).astype(int) + 1 - low).tolist()

    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    corners = np.round((points - low) * SUPERSAMPLING - 0.5).astype(np.int32)
    cv2.fillPoly(fine, [corners], 255)
    alpha = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    x, y = np.meshgrid(np.arange(width) + 0.5 + low[0], np.arange(height) + 0.5 + low[1])
    u, v = np.einsum("ij,jhw->ihw", np.linalg.inv(forward), np.stack([x, y])).astype(np.float32)
    main, accent = _palette(look, light, rng)
    share = TEXTURES[look.texture](u, v, float(rng.uniform(0, 2 * np.pi)))[..., None]
    color = main + share * (accent - main)
    toward = (np.cos(light.direction) * x + np.sin(light.direction) * y) / (pose.extent / 2)
    color = color * (light.gain * (1 + light.shading * toward.astype(np.float32)))[..., None]
    return Cutout(np.clip(color, 0, 1).astype(np.float32), alpha)


def real_light(rng: np.random.Generator, direction: float) -> Light:
    """The light on an object of an image whose light comes from `direction` (radians)."""
    return Light(shading=float(rng.uniform(*SHADING)), direction=direction, gain=float(rng.uniform(0.85, 1.1)))


def pool_light(rng: np.random.Generator, generator: str, bright: bool = False, faded: bool = False) -> Light:
    """The light of a generated instance: harder than the real one, from anywhere, with the generator's own cast."""
    return Light(
        shading=float(rng.uniform(*POOL_SHADING)),
        direction=float(rng.uniform(0, 2 * np.pi)),
        gain=1.2 if bright else 1.0,
        hue_shift=POOL_HUE_SHIFT[generator],
        saturation_gain=(1.2 if generator == "soft" else 0.85) * (0.65 if faded else 1.0),
    )


def stylise(cutout: Cutout, generator: str, rng: np.random.Generator) -> Cutout:
    """Give a cut-out the look of one of the pool's two generators."""
    color = cutout.color
    if generator == "toon":
        levels = 5
        color = np.round(color * levels) / levels
        inside = cv2.erode((cutout.alpha > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=1)
        color = np.where(inside[..., None] > 0, color, color * 0.35)
    sigma = float(rng.uniform(*POOL_BLUR))
    return Cutout(cv2.GaussianBlur(color, (0, 0), sigma).astype(np.float32), cutout.alpha)


# --- what is not an object -------------------------------------------------------------------------------------------


def random_blob(rng: np.random.Generator, extent: float) -> Cutout:
    """A wobbly outline with any texture and hue: of no category, for clutter and off-distribution pool instances."""
    look = Look(
        str(rng.choice(list(BLOBS))),
        str(rng.choice(list(TEXTURES))),
        float(rng.uniform(0, 360)),
        str(rng.choice(["light", "dark"])),
    )
    light = Light(float(rng.uniform(0, 0.5)), float(rng.uniform(0, 6.28)), float(rng.uniform(0.6, 1.1)))
    return render_object(look, draw_pose(rng, extent, np.pi), light, rng)


def smooth_field(rng: np.random.Generator, height: int, width: int, cells: int, low: float, high: float) -> Array:
    """(h, w, 3) colour that changes slowly, `cells` control points a side."""
    coarse = rng.uniform(low, high, (cells, cells, 3)).astype(np.float32)
    grey = coarse.mean(2, keepdims=True)
    muted = grey + (coarse - grey) * 0.6
    field: Array = np.clip(cv2.resize(muted, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    return field


def render_background(rng: np.random.Generator, height: int, width: int) -> Array:
    """Clutter: a slowly changing ground, strokes, and textured patches of no category."""
    canvas = smooth_field(rng, height, width, int(rng.integers(2, 6)), 0.15, 0.85)
    for _ in range(rng.integers(*CLUTTER_STROKES, endpoint=True)):
        ends = rng.integers(-10, max(height, width) + 10, 4).tolist()
        color = rng.uniform(0.05, 0.95, 3).tolist()
        cv2.line(canvas, (ends[0], ends[1]), (ends[2], ends[3]), color, int(rng.integers(1, 4)), cv2.LINE_AA)
    for _ in range(rng.integers(*CLUTTER_PIECES, endpoint=True)):
        blob = random_blob(rng, float(rng.uniform(10, 45)))
        opacity = float(rng.uniform(0.3, 0.95))
        x, y = int(rng.integers(-10, width - 5)), int(rng.integers(-10, height - 5))
        composite(canvas, Cutout(blob.color, blob.alpha * opacity), x, y)
    return canvas


def _overlap(cutout: Cutout, x: int, y: int, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a cut-out with its corner at (x, y) meets an image of `size` (h, w): slices of both."""
    (h, w), (height, width) = cutout.alpha.shape, size
    top, left = min(max(y, 0), height), min(max(x, 0), width)
    bottom, right = max(min(y + h, height), top), max(min(x + w, width), left)
    on_image = (slice(top, bottom), slice(left, right))
    return on_image, (slice(top - y, bottom - y), slice(left - x, right - x))


def composite(canvas: Array, cutout: Cutout, x: int, y: int) -> None:
    """Blend a cut-out into the canvas (h, w, 3), in place, its corner at (x, y)."""
    on_canvas, part = _overlap(cutout, x, y, (canvas.shape[0], canvas.shape[1]))
    window = canvas[on_canvas]
    window += cutout.alpha[part][..., None] * (cutout.color[part] - window)


def footprint(cutout: Cutout, x: int, y: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (h, w) of an image of `size` that a cut-out with its corner at (x, y) covers by at least half."""
    on_image, part = _overlap(cutout, x, y, size)
    covered = np.zeros(size, bool)
    covered[on_image] = cutout.alpha[part] >= 0.5
    return covered


def finish_photograph(canvas: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, a little blur and noise, as a camera adds them. Returns (h, w, 3) uint8 RGB."""
    sigma = float(rng.uniform(*IMAGE_BLUR))
    exposed = canvas * float(rng.uniform(*IMAGE_GAIN))
    if sigma > 0.2:
        exposed = cv2.GaussianBlur(exposed, (0, 0), sigma).astype(np.float32)
    noise = rng.standard_normal(exposed.shape, np.float32) * np.float32(rng.uniform(*IMAGE_NOISE))
    return np.clip(exposed * 255 + noise, 0, 255).round().astype(np.uint8)


def write_png(path: Path, image: NDArray[Any], compression: int) -> None:
    """Writes (h, w, 3 or 4) uint8, BGR(A); `compression` is zlib's, 0 to 9.

    Raises OSError, which cv2.imwrite does not on a full disk.
    """
    path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, compression])[1].tobytes())
