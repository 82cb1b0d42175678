"""`harness recipes`: the set-ups that come with the package, and each beside the published file it follows."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.compose import compose
from harness.recipes.document import FIGURES, absent, counted, place, shown
from harness.recipes.recipe import about, recipe_names
from harness.recipes.table import Setting, Verdict, papers, settings_of

STYLES = {Verdict.equal: "", Verdict.differs: "yellow", Verdict.aside: "dim", Verdict.departs: "bold red"}


def list_command() -> None:
    """Every recipe with paper, file of origin, GPUs, hours and figures as published."""
    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe=", "paper", "file of origin", "GPUs", "hours", f"{FIGURES}, published"):
        table.add_column(heading, overflow="fold")
    for name in recipe_names():
        paper = papers().get(name)
        if paper is None:
            table.add_row(name, about(name).splitlines()[0])
        else:
            figures = " / ".join(map(str, paper.figures)) if paper.figures else None
            origin = paper.origin.partition(":")[2]
            table.add_row(name, paper.paper, origin, absent(paper.gpus), absent(paper.hours), absent(figures))
    console.print(table)
    console.print("harness recipes show NAME: every published setting with its file and line beside ours", markup=False)


def show_command(name: str) -> None:
    """One recipe: what it is, what it reads, and ours beside the published value for every setting."""
    console = Console()
    composed = compose([f"recipe={name}"])
    settings, config = composed.settings, composed.config
    console.print(f"recipe={name}", style="bold", highlight=False)
    console.print(about(name), highlight=False, markup=False)
    for what, value in (
        ("method", f"{settings['method']} on {settings['backbone']}, detector {composed.choices['detector']}"),
        ("starts from", config.weights or config.backbone.weights or "random weights"),
        ("pool", config.data.pool if config.method.pastes else "none"),
        ("ours runs on", f"{config.launcher.gpus} GPUs, {config.schedule.batch_per_rank} images on each rank"),
    ):
        console.print(f"{what}: {value}", highlight=False, markup=False)
    paper = papers().get(name)
    if paper is None:
        console.print("no published configuration: ours alone")
        return
    console.print(f"{paper.paper}; {place(paper.origin)}", highlight=False, markup=False)
    console.print(f"published: GPUs {absent(paper.gpus)}; hours {absent(paper.hours)}", highlight=False, markup=False)
    if paper.note:
        console.print(paper.note.strip(), highlight=False, markup=False)
    found = settings_of(name)
    console.print(_settings(found, settings, name))
    console.print(counted(setting.verdict(settings) for setting in found), highlight=False)


def _settings(found: list[Setting], settings: dict[str, Any], name: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "published", "file and line", "ours", ""):
        table.add_column(heading, overflow="fold")
    section = ""
    for setting in found:
        if setting.section != section:
            section = setting.section
            table.add_row(Text(section.replace("_", " "), style="bold"))
        verdict = setting.verdict(settings)
        remark = f"{verdict.value}{': ' if setting.remark else ''}{setting.remark}"
        ours = shown(setting.ours(settings))
        own = f"{', '.join(setting.keys)} = {ours}" if setting.keys else ours
        cells = (setting.name, shown(setting.published), setting.origins[name], own, remark)
        table.add_row(*(Text(cell) for cell in cells), style=STYLES[verdict])
    return table
