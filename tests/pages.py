"""The README and the pages below docs/: their fenced blocks and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of what is fenced."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def files(text: str) -> dict[str, str]:
    """The files of a text by the name in their first line, `# NAME`."""
    named = [re.match(r"# ([\w.]+)\n", body) for language, body in blocks(text) if language]
    return {found[1]: found.string for found in named if found}


def commands(text: str) -> list[str]:
    """The lines of blocks without a language, without their comments."""
    lines = [line for language, body in blocks(text) if not language for line in body.splitlines()]
    return [command for line in lines if (command := re.split(r"\s+# ", line)[0].strip())]
