"""How figures look: one palette, one type size, and one drawing for print, for a light page and for a dark one.

Drawings are made in the light colours. Inside the page each colour is replaced by a CSS variable, so that a figure
follows the reader's light or dark setting; the files beside the page keep the light colours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1c2330", "#687080", "#d9dde3", "#fefefe"
# Okabe and Ito's palette, which colour-blind readers can tell apart, ordered by contrast with the page.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c0689b", "#b98300", "#4a9fd0", "#7a5fb8", "#8a5a2b")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    **{colour: f"--series-{index}" for index, colour in enumerate(PALETTE)},
}
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
WIDTH = 4.6  # inches
SHORT = 16  # letters of a label, three of which fit side by side

SETTINGS: Any = {
    "font.size": 9,
    "font.family": ["DejaVu Sans"],
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.7,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a label is a $
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """A figure: name of its files, title, what it was made from, and the drawing as standalone SVG and PNG."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes

    def inline(self) -> str:
        """The SVG for inside a page: no header, ids of its own, colours as CSS variables, the page's type."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r'\bid="', f'id="{self.name}-', svg)
        svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{self.name}-", svg)
        for colour, variable in VARIABLES.items():
            svg = svg.replace(colour, f"var({variable})")
        svg = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'", r"font-size: \1px", svg)
        svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
        words = f'role="img" aria-label="{_attribute(self.title)}" aria-describedby="{self.name}-caption"'
        return svg.replace("<svg ", f"<svg {words} ", 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def canvas(height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, row by row; inside `with styled()`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def styled() -> Any:
    """The context in which figures are made and saved."""
    from matplotlib import rc_context

    return rc_context(SETTINGS)


def picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    """A finished figure as SVG and PNG; equal figures give equal bytes."""
    from matplotlib import rc_context

    svg, png = io.BytesIO(), io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=180, facecolor="white")
    return Picture(name, title, caption, svg.getvalue().decode(), png.getvalue())


def colour(place: int) -> str:
    """The colour of the line or row at a place; repeats after the last."""
    return PALETTE[place % len(PALETTE)]


def stroke(place: int) -> dict[str, Any]:
    """Colour and dashes of the line at a place: where colours repeat, dashes tell lines apart."""
    return {"color": colour(place), "ls": DASHES[place // len(PALETTE) % len(DASHES)]}


def marker(place: int) -> str:
    """The marker of the line or row at a place; where colours repeat, it is another one."""
    return MARKERS[(place + place // len(PALETTE)) % len(MARKERS)]


def legend_above(canvas: Figure, axes: list[Axes], last: Collection[str] = ()) -> None:
    """Above all panels: each label of the axes once, those of `last` at the end, in as many columns as fit."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found = dict(sorted(found.items(), key=lambda item: item[0] in last))
    columns = 3 if max(map(len, found), default=0) <= SHORT else 2
    canvas.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns)
