"""`harness recipes`: the set-ups that come with the package, and each beside the published file it follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from harness.compose import compose
from harness.launch.tables import WIDE, console
from harness.recipes.document import FIGURES, absent, counted, place, shown
from harness.recipes.recipe import about, recipe_names
from harness.recipes.table import Setting, Verdict, papers, settings_of

STYLES = {Verdict.equal: "", Verdict.differs: "yellow", Verdict.aside: "dim", Verdict.departs: "bold red"}


def list_command() -> None:
    """Every recipe with paper, original file, and published GPUs, hours and figures."""
    out = console()
    wide = out.width >= WIDE
    table = Table(box=None, pad_edge=False)
    for heading in (
        "recipe=",
        "paper",
        *(("file of origin", "GPUs", "hours") if wide else ()),
        f"{FIGURES}, published",
    ):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("recipe=", "file of origin"))
    own = []
    for name in recipe_names():
        paper = papers().get(name)
        if paper is None:
            own.append(name)
            continue
        figures = " / ".join(map(str, paper.figures)) if paper.figures else None
        origin = paper.origin.partition(":")[2]
        further = (origin, absent(paper.gpus), absent(paper.hours)) if wide else ()
        table.add_row(name, paper.paper, *further, absent(figures))
    out.print(table)
    out.print("\nNot from a paper:", highlight=False)
    for name in own:
        out.print(f"{name}: {about(name).splitlines()[0]}", markup=False, highlight=False)
    out.print(
        "\nharness recipes show NAME: every published setting with its file and line beside ours",
        markup=False,
        highlight=False,
    )


def show_command(name: str) -> None:
    """One recipe: what it is, what it reads, and ours beside the published value for every setting."""
    out = console()
    composed = compose([f"recipe={name}"])
    settings, config = composed.settings, composed.config
    out.print(f"recipe={name}", style="bold", highlight=False)
    out.print(about(name), highlight=False, markup=False)
    for what, value in (
        ("method", f"{settings['method']} on {settings['backbone']}, detector {composed.choices['detector']}"),
        ("starts from", config.weights or config.backbone.weights or "random weights"),
        ("pool", config.data.pool if config.method.pastes else "none"),
        ("ours runs on", f"{config.launcher.gpus} GPUs, {config.schedule.batch_per_rank} images on each rank"),
    ):
        out.print(f"{what}: {value}", highlight=False, markup=False)
    paper = papers().get(name)
    if paper is None:
        out.print("no published configuration: this recipe is ours")
        return
    out.print(f"{paper.paper}; {place(paper.origin)}", highlight=False, markup=False)
    out.print(f"published: GPUs {absent(paper.gpus)}; hours {absent(paper.hours)}", highlight=False, markup=False)
    if paper.note:
        out.print(paper.note.strip(), highlight=False, markup=False)
    found = settings_of(name)
    section = ""
    for setting in found:
        if setting.section != section:
            section = setting.section
            out.print(f"\n{section.replace('_', ' ')}", style="bold")
        out.print(_line(setting, settings, name), soft_wrap=True)
    out.print()
    out.print(counted(setting.verdict(settings) for setting in found), highlight=False)


def _line(setting: Setting, settings: Mapping[str, Any], recipe: str) -> Text:
    """A setting in a line, which can be searched: verdict, published value, ours, file and line, and why."""
    verdict = setting.verdict(settings)
    ours = shown(setting.ours(settings))
    own = f"{', '.join(setting.keys)} = {ours}" if setting.keys else ours
    remark = f" | {setting.remark}" if setting.remark else ""
    line = f"{verdict.value:<14}{setting.name} = {shown(setting.published)} | ours {own} | {setting.origins[recipe]}"
    return Text(line + remark, style=STYLES[verdict])
