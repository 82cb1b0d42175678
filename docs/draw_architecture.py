"""Draws docs/img/architecture.svg from the sources: rooms with their first sentence, and who imports whom.

    python docs/draw_architecture.py [OUT.svg]

A room is a package of the house, or one of the harness's modules that stand alone. An arrow means "imports"; arrows
that follow from others are left out, and so are `errors` and `console`, which everybody may import.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "methods", "backbones", "reports")
LEFT_OUT = {"harness", "errors", "console"}
NAMED_EXCEPTION = "conformance"  # the kit below methods/, which tries methods on the real training step

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 196, 64, 26, 52, 24
CHARACTERS = 30  # in a line of a room
# Paths through the house, each the rooms in the order in which they are passed.
WAYS = {
    "a setting": ("#b35806", ["cli", "launch", "compose", "config", "run"]),
    "a batch": ("#1b7837", ["data", "training", "engine", "detector"]),
    "a decision": ("#762a83", ["training", "methods", "record", "reports"]),
}


def rooms() -> dict[str, str]:
    """Every room with the first sentence of its docstring."""
    found = {}
    for package in PACKAGES:
        folders = (ROOT / package).iterdir() if package == "harness" else [ROOT / package]
        for path in sorted(folders):
            source = path / "__init__.py" if path.is_dir() else path
            if source.suffix == ".py" and source.is_file() and path.stem not in ("__init__", "conf", *LEFT_OUT):
                found[path.stem] = (ast.get_docstring(ast.parse(source.read_text())) or "").split(".")[0]
    return found


def imports(names: dict[str, str]) -> dict[str, set[str]]:
    """The rooms that each room imports, inside functions too."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            own = _room(".".join(parts))
            if own in names and NAMED_EXCEPTION not in parts:
                found[own] |= {room for module in _imported(path) if (room := _room(module)) in names}
    return {name: others - {name} for name, others in found.items()}


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "harness" and len(parts) > 1 else parts[0]


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Arrows that do not follow from others: A to C goes where A reaches C through B."""

    def reached(start: str) -> set[str]:
        return set().union(*({other} | reached(other) for other in arrows[start])) if arrows[start] else set()

    below = {room: set().union(*(reached(other) for other in others), set()) for room, others in arrows.items()}
    return {room: others - below[room] for room, others in arrows.items()}


def floors(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by floor, the top one first: each stands above everything that it imports."""
    level: dict[str, int] = {}

    def rise(room: str) -> int:
        if room not in level:
            level[room] = 1 + max((rise(other) for other in arrows[room]), default=-1)
        return level[room]

    by_level = defaultdict(list)
    for room in arrows:
        by_level[rise(room)].append(room)
    return [by_level[number] for number in sorted(by_level, reverse=True)]


def draw() -> str:
    """The picture as SVG text, the same for the same sources."""
    named = rooms()
    arrows = imports(named)
    rows = floors(arrows)
    width = max(len(row) for row in rows) * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    place = {}
    for number, row in enumerate(rows):
        indent = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for column, room in enumerate(row):
            place[room] = (indent + column * (WIDTH + GAP_X), MARGIN + number * (HEIGHT + GAP_Y))
    legend = MARGIN + len(rows) * (HEIGHT + GAP_Y)
    lines = [_arrow(place[room], place[other]) for room, others in reduced(arrows).items() for other in sorted(others)]
    boxes = [_box(room, named[room], *place[room]) for row in rows for room in row]
    dots, words = [], []
    for way, (name, (color, stops)) in enumerate(WAYS.items()):
        dots += [_stop(place, room, color, way, number) for number, room in enumerate(stops, 1)]
        text = f"the path of {name}: {' → '.join(stops)}"
        words.append(f'<text x="{MARGIN}" y="{legend + 18 * way}" fill="{color}" class="w">{text}</text>')
    height = legend + 18 * len(WAYS)
    return "\n".join([_HEAD.format(width=width, height=height), *lines, *boxes, *dots, *words, "</svg>", ""])


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" role="img">
<title>The rooms of bsgal-bench, who imports whom, and the paths of a setting, a batch and a decision</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#9a9a9a"/></marker></defs>
<style>.n{{font-weight:bold;font-size:15px}}.t{{font-size:11px;fill:#444}}.w{{font-size:14px}}
.d{{font-size:11px;fill:#fff;text-anchor:middle}}</style>
<rect width="{width}" height="{height}" fill="#fff"/>"""


def _box(room: str, words: str, x: float, y: float) -> str:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) >= CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    text = "".join(
        f'<text x="{x + 10}" y="{y + 36 + 13 * number}" class="t">{escape(line)}</text>'
        for number, line in enumerate(lines[:2])
    )
    box = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#f4f6f8" stroke="#667"/>'
    return f'{box}<text x="{x + 10}" y="{y + 20}" class="n">{room}</text>{text}'


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0, x1, y1 = start[0] + WIDTH / 2, start[1] + HEIGHT, end[0] + WIDTH / 2, end[1]
    bend = (y1 - y0) / 2
    path = f"M{x0},{y0} C{x0},{y0 + bend} {x1},{y1 - bend} {x1},{y1}"
    return f'<path d="{path}" fill="none" stroke="#b5b5b5" marker-end="url(#head)"/>'


def _stop(place: dict[str, tuple[float, float]], room: str, color: str, way: int, number: int) -> str:
    """A numbered dot in the room's corner; each way has a column of its own, so that dots never meet."""
    x, y = place[room]
    x, y = x + WIDTH - 14 - 20 * (len(WAYS) - 1 - way), y + 14
    return f'<circle cx="{x}" cy="{y}" r="8" fill="{color}"/><text x="{x}" y="{y + 4}" class="d">{number}</text>'


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "img" / "architecture.svg"
    out.write_text(draw())
    print(out)
