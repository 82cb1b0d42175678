"""A MkDocs hook that fills in what the sources know: options, methods and the command line.

A line `{{ configuration }}`, `{{ methods }}` or `{{ command line }}` of a page is replaced by Markdown made from
harness/config.py with harness/conf, from the registry of methods, and from the Typer application.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer
import typer.cli

from harness.cli import app
from methods.listing import MethodRow, methods_table
from methods.xpaste import PoolPasting

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "harness" / "config.py"
OPTIONS = ROOT / "harness" / "conf"
# Groups in the order of the page, each with its dataclass and how a field is written on the command line.
GROUPS = {
    "run": ("RunConfig", ""),
    "data": ("DataConfig", "data."),
    "data.paste": ("PasteConfig", "data.paste."),
    "detector": ("DetectorConfig", "detector."),
    "engine": ("EngineConfig", "engine."),
    "schedule": ("ScheduleConfig", "schedule."),
    "evaluation": ("EvaluationConfig", "evaluation."),
    "stage": ("StageConfig", "stage."),
    "launcher": ("LauncherConfig", "launcher."),
}
FACTORIES = {"list": "[]", "dict": "{}"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    for name, make in MAKERS.items():
        line = f"{{{{ {name} }}}}"
        if line in markdown:
            markdown = markdown.replace(line, make())
    return markdown


# ---------------------------------------------------------------------- configuration


def configuration() -> str:
    source = SCHEMAS.read_text()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    comments = _comments(source)
    parts = []
    for group, (class_name, prefix) in GROUPS.items():
        node = classes[class_name]
        parts += [f"## `{group}`", _paragraph(ast.get_docstring(node)), _choices(group)]
        parts += ["| option | type = default | meaning |\n| :-- | :-- | :-- |"]
        parts[-1] += "".join(_rows(node, prefix, comments, classes))
    parts += ["## `recipe`", _choices("recipe")]
    return "\n\n".join(part for part in parts if part)


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """By line: whether the comment has the line to itself, and its text."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = (token.line.lstrip().startswith("#"), token.string.lstrip("# "))
    return found


def _rows(
    node: ast.ClassDef, prefix: str, comments: dict[int, tuple[bool, str]], classes: dict[str, ast.ClassDef]
) -> list[str]:
    rows = []
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        type_name = ast.unparse(field.annotation)
        if type_name.endswith("Config"):  # a group of its own
            continue
        above = _above(field.lineno, comments)
        if above and not above.endswith("."):  # about all that follow
            rows.append(f"\n| **{_cell(above)}** | | |")
            above = ""
        _, beside = comments.get(field.end_lineno or 0, (False, ""))
        meaning = " ".join([*(_sentence(words) for words in (above, beside) if words), _enum_words(type_name, classes)])
        shown = _choice_names(classes[type_name]) if type_name in classes else type_name
        rows.append(f"\n| `{prefix}{field.target.id}` | `{shown}{_default(field.value)}` | {_cell(meaning.strip())} |")
    return rows


def _above(line: int, comments: dict[int, tuple[bool, str]]) -> str:
    words: list[str] = []
    while (line := line - 1) in comments and comments[line][0]:
        words.insert(0, comments[line][1])
    return " ".join(words)


def _enum_words(type_name: str, classes: dict[str, ast.ClassDef]) -> str:
    return _paragraph(ast.get_docstring(classes[type_name])) if type_name in classes else ""


def _choice_names(node: ast.ClassDef) -> str:
    return " | ".join(ast.unparse(item.targets[0]) for item in node.body if isinstance(item, ast.Assign))


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # field(default_factory=...)
        factory = value.keywords[0].value
        return f" = {ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else FACTORIES[ast.unparse(factory)]}"
    text = ast.unparse(value) if value else ""
    if text == "MISSING":
        return ""
    names = {"None": "null", "True": "true", "False": "false", "''": '""'}
    return f" = {names.get(text) or re.sub(r'^[A-Z][a-zA-Z]+[.]', '', text)}"


def _choices(group: str) -> str:
    """The YAML files of a Hydra group, each with the comment at its head."""
    files = sorted((OPTIONS / group).glob("*.yaml"))
    rows = []
    for file in files:
        head = re.match(r"(?:#.*\n)*", file.read_text())
        lines = [line.lstrip("# ") for line in (head[0] if head else "").splitlines()]
        words = " ".join(line for line in lines if not line.startswith("@package"))
        rows.append(f"| `{group}={file.stem}` | {_cell(words)} |")
    return "\n".join(["| choice | what it is |", "| :-- | :-- |", *rows]) if rows else ""


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# ---------------------------------------------------------------------- methods and the command line


def methods() -> str:
    about = _listed(inspect.cleandoc(PoolPasting.__doc__ or ""), [field.name for field in fields(PoolPasting)])
    pasting = f"## Options of every method that pastes\n\n{about}"
    return "\n\n".join([pasting, *(_method(row) for row in methods_table() if row.origin == "built in")])


def _method(row: MethodRow) -> str:
    facts = [
        f"**Source:** {row.paper}" if row.paper else "",
        f"**Needs from the engine:** {', '.join(f'`{need}`' for need in row.needs)}" if row.needs else "",
    ]
    table = "| option | default | choices |\n| :-- | :-- | :-- |"
    for option in row.options:
        choices = ", ".join(f"`{choice}`" for choice in option.choices)
        table += f"\n| `method.{option.name}` | `{option.default}` | {choices} |"
    about = _listed(row.about, [option.name for option in row.options])
    parts = [f"## `{row.name}`", about, "  \n".join(fact for fact in facts if fact), table if row.options else ""]
    return "\n\n".join(part for part in parts if part)


def _listed(about: str, names: list[str]) -> str:
    """A docstring with its `name: meaning.` sentences as a list."""
    return re.sub(rf"(^|(?<=\.)\s+)({'|'.join(names) or '$^'}): ", r"\n\n- `\2`: ", about, flags=re.MULTILINE)


def command_line() -> str:
    command = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="harness"), name="harness")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # each has its own heading below
    text = re.sub(r"^\* `--help`: .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Options\*\*:\n\n(?!\*)", "", text)
    return text.split("\n", 1)[1]  # the page has a heading


MAKERS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "methods": methods,
    "command line": command_line,
}
