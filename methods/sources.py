"""What a plugin is made of: the Python files that its results depend on, and the versions of installed packages."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

# Parts of this package: the run's commit identifies their sources.
HOUSE = ("methods", "harness", "backbones", "reports", "sweeps")
_PYTHON = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}  # of an environment, or of one that it builds on


def fingerprint(modules: Iterable[str], plugins: Iterable[str], files: Mapping[str, Path]) -> str:
    """SHA-256 of the sources of these modules and of all that they build on, wherever these are.

    That is each one's whole package, those of `plugins` that it imports, and helpers beside it; not libraries. A
    package that is installed counts with its version. `files` are modules that were read by path. A single
    file has its own SHA-256.
    """
    known = {name.split(".")[0] for name in plugins} - set(HOUSE)
    sources, packages = _sources(modules, known, files)
    versions = sorted({version for package in packages for version in _versions(package)})
    if len(sources) == 1 and not versions:
        return hashlib.sha256(next(iter(sources)).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for name, path in sorted((name, path) for path, name in sources.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    digest.update("\0".join(versions).encode())
    return digest.hexdigest()


def _sources(modules: Iterable[str], plugins: set[str], files: Mapping[str, Path]) -> tuple[dict[Path, str], set[str]]:
    """Every file with a name that does not depend on where it lies, and the packages that they are of."""
    sources: dict[Path, str] = {}
    packages: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        packages.add(name.split(".")[0])
        for path, shown in _files_of(name, files):
            if path not in sources:
                sources[path] = shown
                waiting += [other for other in _imported(path) if _is_own(other, plugins, files)]
    return sources, packages


def _files_of(name: str, files: Mapping[str, Path]) -> Iterator[tuple[Path, str]]:
    """A module's file, or all of its package's."""
    top = name.split(".")[0]
    module = sys.modules.get(top)
    package = _package_folder(module)
    if package is not None:
        for path in sorted(package.rglob("*.py")):
            yield path.resolve(), f"{top}/{path.relative_to(package).as_posix()}"
        return
    own = files.get(name) or _file(sys.modules.get(name))
    if own is not None:
        yield own.resolve(), own.name


def _imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, as far as they are loaded; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:  # a relative import stays in a package, which counts as a whole
            continue
        yield from (each for each in found if each in sys.modules)


def _is_own(name: str, plugins: set[str], files: Mapping[str, Path]) -> bool:
    """Whether an imported module is a plugin or a helper of one; libraries are not."""
    top = name.split(".")[0]
    if top in HOUSE:
        return False
    if top in plugins or name in files:
        return True
    path = _file(sys.modules.get(name)) or _package_folder(sys.modules.get(top))
    return path is not None and not _is_library(path.resolve())


def _is_library(path: Path) -> bool:
    return not _INSTALLED.isdisjoint(path.parts) or any(path.is_relative_to(folder) for folder in _PYTHON)


def _package_folder(module: ModuleType | None) -> Path | None:
    folders = list(getattr(module, "__path__", []))
    return Path(folders[0]) if folders else None


def _file(module: ModuleType | None) -> Path | None:
    path = getattr(module, "__file__", None)
    return Path(path) if path and str(path).endswith(".py") else None


def _versions(package: str) -> list[str]:
    """Such as "keep-easy 0.1" for each distribution that brings a top-level package."""
    return [f"{name} {metadata.version(name)}" for name in _distributions(tuple(sys.path)).get(package, [])]


@cache
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """What is installed, by top-level package. Once for a path: it is all read, which takes a fifth of a second."""
    return metadata.packages_distributions()
