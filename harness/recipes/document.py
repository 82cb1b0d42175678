"""The table of published settings as text: `python docs/write_fidelity.py` writes docs/explanation/fidelity.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from harness.recipes.table import SECTIONS, Paper, Setting, Verdict, papers, settings, sources

FIGURES = "AP box / mask, rare AP box / mask"

_HEAD = """---
hide: [toc]
---

# Fidelity to the published code

This page lists every setting of the published configurations beside ours. `python docs/write_fidelity.py` writes it
from the tables in `harness/recipes`. A test fails if the page is out of date, if a composed recipe departs from the
tables, or if a published file sets something that has no row. `harness recipes show NAME` prints the same for one
recipe.

| verdict | meaning |
| :-- | :-- |
| equal | a key or constant of ours has the published value, or the named test or line of code ensures it |
| differs | for the reason given |
| no part of it | bookkeeping, or something that no source states |

File and line are those of the recipe file, or of the default that it leaves in force, in
"""


def document(composed: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; `composed` has the settings of every published recipe."""
    repositories = [
        f"- `{name}`: [{source['repository']}](https://github.com/{source['repository']}) at `{source['commit'][:8]}`"
        for name, source in sources().items()
    ]
    parts = [
        _HEAD,
        "\n".join(repositories),
        "\n## Recipes\n",
        _recipes(composed),
        "\n## What differs\n",
        _differences(),
        "\n## Every setting\n",
        "`all` stands for all recipes. `…` in a path is `third_party/CenterNet2`.\n",
        *(_section(section, composed) for section in SECTIONS),
    ]
    return "\n".join(parts)


def place(origin: str) -> str:
    """Repository and path of an origin, the commit with it."""
    short, _, path = origin.partition(":")
    return f"{sources()[short]['repository']} {path} at {sources()[short]['commit'][:8]}"


def absent(value: str | None) -> str:
    return value or "not published"


def shown(value: Any) -> str:
    """A value as YAML's flow style has it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def counted(verdicts: Iterable[Verdict]) -> str:
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])


def _recipes(composed: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"| recipe | paper | file of origin | GPUs | hours | {FIGURES} | settings |",
        "| :-- | :-- | :-- | :-- | :-- | :-- | :-- |",
    ]
    for name, paper in papers().items():
        figures = " / ".join(map(str, paper.figures)) if paper.figures else None
        verdicts = counted(s.verdict(composed[name]) for s in settings() if name in s.origins)
        cells = (f"`{name}`", paper.paper, f"`{paper.origin}`", absent(paper.gpus), absent(paper.hours))
        lines.append(_row(*cells, absent(figures), verdicts))
    return "\n".join([*lines, "", *(_note(paper) for paper in papers().values() if paper.note)])


def _note(paper: Paper) -> str:
    return f"- `{paper.name}`: {paper.note.strip()}"


def _differences() -> str:
    lines = ["| setting | recipes | published | ours | why |", "| :-- | :-- | :-- | :-- | :-- |"]
    for setting in settings():
        if setting.differs:
            cells = (f"`{setting.name}`", _of(setting), shown(setting.published), shown(setting.expected))
            lines.append(_row(*cells, setting.differs))
    return "\n".join(lines)


def _section(section: str, composed: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"### {section.replace('_', ' ').capitalize()}\n",
        "| setting | recipes | published | file and line | ours | |",
        "| :-- | :-- | :-- | :-- | :-- | :-- |",
    ]
    for setting in settings():
        if setting.section == section:
            lines.append(_setting(setting, composed))
    return "\n".join([*lines, ""])


def _setting(setting: Setting, composed: Mapping[str, Mapping[str, Any]]) -> str:
    ours = " or ".join(dict.fromkeys(shown(setting.ours(composed[recipe])) for recipe in setting.origins))
    keys = f"`{', '.join(setting.keys)}` = " if setting.keys else f"`{setting.constant}` = " if setting.constant else ""
    verdict = " or ".join(dict.fromkeys(setting.verdict(composed[recipe]).value for recipe in setting.origins))
    held = f"`{setting.where}`" if setting.where else ""
    remark = "; ".join(part for part in (verdict, held, setting.remark) if part)
    origins = ", ".join(dict.fromkeys(f"`{_short(origin)}`" for origin in setting.origins.values()))
    return _row(f"`{setting.name}`", _of(setting), shown(setting.published), origins, f"{keys}{ours}", remark)


def _of(setting: Setting) -> str:
    return "all" if set(setting.origins) == set(papers()) else ", ".join(setting.origins)


def _short(origin: str) -> str:
    return origin.replace("third_party/CenterNet2", "…")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |"
