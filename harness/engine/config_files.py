"""Which files an engine's configuration reads: its bases, and weights that it names. None is executed.

They are read here and not by the framework, although detectron2 and mmengine can dump a configuration with its bases
merged into it. A run's name follows from these files, and a sweep is often submitted where no framework is installed,
on a login node for one: the name must be the same there and where the run starts. Besides, both frameworks execute a
configuration in Python to read it, and their dumps change with their versions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from harness.errors import UserError

WEIGHTS = (".pth", ".pt", ".pkl", ".safetensors")
BASES = ("_base_", "_BASE_")  # mmdet's word, detectron2's word


def own_file(name: str | None) -> Path | None:
    """`engine.config` where it is a file of the user's; None if the framework ships it."""
    path = Path(name).expanduser() if name is not None else None
    return path if path is not None and path.is_file() else None


def files_read(config: Path) -> list[Path]:
    """The configuration, its bases and theirs, and after them weights that they name; each once, in order of reading.

    Bases are those of mmdet (`_base_`, `read_base()`), of detectron2 (`_BASE_`) and of its LazyConfig (relative
    imports); those that a framework or a server holds are left out. Raises UserError for one that cannot be read.
    """
    configs, weights = [config], []
    for path in configs:  # grows during the loop
        bases, texts = _python(path) if path.suffix == ".py" else _yaml(path)
        configs += [base for base in bases if base.resolve() not in [known.resolve() for known in configs]]
        weights += [Path(text) for text in texts if text.endswith(WEIGHTS) and Path(text).is_file()]
    return list(dict.fromkeys([*configs, *weights]))


def files_named(override: str) -> list[str]:
    """Files that the value of a KEY=VALUE names, as they are written there."""
    value = override.partition("=")[2]
    try:
        texts = [value, *_scalars(yaml.compose(value, yaml.SafeLoader))]
    except yaml.YAMLError:
        texts = [value]
    return [text for text in dict.fromkeys(texts) if text and _is_file(text)]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False


def _yaml(path: Path) -> tuple[list[Path], list[str]]:
    try:
        tree = yaml.compose(_text(path), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"engine.config: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    bases: list[str] = []
    if isinstance(tree, yaml.MappingNode):
        bases = [text for key, value in tree.value if key.value in BASES for text in _scalars(value)]
    return _existing(path, bases), list(_scalars(tree))


def _scalars(node: yaml.Node | None) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _scalars(each)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)


def _python(path: Path) -> tuple[list[Path], list[str]]:
    try:
        tree = ast.parse(_text(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"engine.config: {path} is not valid Python: {error}") from error
    bases, imported, texts = [], [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in BASES for t in node.targets):
            bases += [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
        elif isinstance(node, ast.ImportFrom) and node.level:
            imported += _imported(path, node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return [*_existing(path, [base for base in bases if isinstance(base, str)]), *imported], texts


def _imported(path: Path, node: ast.ImportFrom) -> list[Path]:
    """The files that a relative import reads: one of that name, or some of a folder of that name."""
    place = path.absolute().parents[node.level - 1].joinpath(*(node.module or "").split("."))
    if place.is_dir():
        found = [place / f"{alias.name}.py" for alias in node.names]
        return [each for each in found if each.is_file()]
    return _existing(path, [str(place.with_name(f"{place.name}.py"))])


def _existing(path: Path, bases: Sequence[str]) -> list[Path]:
    found = []
    for base in bases:
        if "::" in base or "://" in base:  # a framework's own, or a server's
            continue
        place = path.parent / Path(base).expanduser()
        if not place.is_file():
            raise UserError(f"engine.config: {path} builds on {place}, which does not exist")
        found.append(place)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"engine.config: {path} cannot be read: {error}") from error
