"""A report's first tables for a terminal: the figures, and what each row recovers of the oracle's gain."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table as Shown
from rich.text import Text

from reports.spec import Spec
from reports.table import Table
from reports.text import Grid, grids, recovery_title


def shown_tables(spec: Spec, tables: list[Table]) -> Iterator[RenderableType]:
    """The same cells as the other formats have."""
    made = grids(spec, tables, lambda column: column.plain, lambda text: f" ({text})")
    wanted = {spec.title, *([recovery_title(spec)] if spec.gain else [])}
    for grid in made:
        if grid.caption in wanted:
            yield from _shown(grid)


def _shown(grid: Grid) -> Iterator[RenderableType]:
    for heading, rows in grid.groups:
        # Not the table's own title, which would be broken to its width.
        yield Text(", ".join(part for part in (grid.caption, heading) if part), style="bold")
        table = Shown(box=None, pad_edge=False)
        for place, each in enumerate(grid.heading):
            table.add_column(each, justify="right" if place else "left", overflow="fold")
        for cells in rows:
            table.add_row(*cells)
        yield table
