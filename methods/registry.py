"""Methods by name: the built-in files, the entry-point group `bsgal_bench.methods`, and files given by path."""

from __future__ import annotations

import copyreg
import dataclasses
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from methods import sources
from methods.contract import Method

ENTRY_POINTS = "bsgal_bench.methods"
# Modules of this package that hold no method.
SUPPORT = frozenset(
    {
        "conformance",
        "contract",
        "contribution",
        "filters",
        "last_layer",
        "listing",
        "references",
        "registry",
        "running",
        "sources",
        "template",
    }
)

M = TypeVar("M", bound=type[Method])

_classes: dict[str, type[Method]] = {}
_files: dict[str, Path] = {}  # plugin module's name -> the file it was read from
_loaded = False


def register(name: str) -> Callable[[M], M]:
    """Class decorator: makes a `Method` dataclass known as `name`, its Hydra option `method=name`.

    Raises ValueError for a name that is not a lower-case identifier or belongs to another class, and TypeError for a
    class that is not a dataclass derived from Method.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a method's name is lower-case letters, digits and underscores, not {name!r}")

    def decorate(cls: M) -> M:
        if not (inspect.isclass(cls) and issubclass(cls, Method)):
            raise TypeError(f"@register({name!r}) decorates {cls!r}, which does not derive from Method")
        if "__dataclass_params__" not in vars(cls):
            raise TypeError(f"@register({name!r}) needs @dataclass below it, before class {cls.__name__}")
        known = _classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"the method name {name!r} of {_where(cls)} is already taken by {_where(known)}: choose another"
            )
        _classes[name] = cls
        if cls.__module__ in _files:
            copyreg.pickle(cls, _reduce)
        return cls

    return decorate


def find(name: str) -> type[Method]:
    """The class of a method. Raises LookupError, which lists the known ones."""
    if name not in names():
        raise LookupError(f"no method is called {name!r}: there are {', '.join(names())}")
    return _classes[name]


def names() -> list[str]:
    """Names of all methods, sorted."""
    _load_all()
    return sorted(_classes)


def name_of(method: type[Method] | Method) -> str:
    """The name that a class (or an instance's class) is registered under. Raises LookupError for an unknown one."""
    cls = method if isinstance(method, type) else type(method)
    _load_all()
    for name, known in _classes.items():
        if known is cls:
            return name
    raise LookupError(f"{_where(cls)} is not registered: put @register('name') before it")


def load_file(path: str | Path) -> list[str]:
    """Reads a Python file that registers methods, once per process; returns the names that it registered.

    Its module goes into `sys.modules` under a name made from the file's, and its methods pickle with the path, so that
    spawned workers find them. Raises FileNotFoundError, and ValueError if the file does not run or registers
    nothing.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a file, so no method can be read from it")
    module_name = f"bsgal_bench_method_{re.sub(r'[^0-9a-zA-Z_]', '_', file.stem)}"
    if _files.get(module_name) == file:
        return _names_in(module_name)
    if module_name in _files:
        raise ValueError(f"{file} and {_files[module_name]} have the same file name: rename one of them")
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file: a method file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    _files[module_name] = file
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        _forget(module_name)
        raise ValueError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    found = _names_in(module_name)
    if not found:
        _forget(module_name)
        raise ValueError(f"{file} registers no method: put @register('name') before its class")
    return found


def is_built_in(cls: type[Method]) -> bool:
    """Whether a method comes with this package."""
    return cls.__module__.split(".")[0] == __package__


def source_fingerprint(cls: type[Method]) -> str | None:
    """SHA-256 of all sources of a method from outside this package; None for a built-in one.

    That is its file or whole package, the plugins that it builds on, and its version where it is installed
    (`methods.sources`). The run's commit identifies the source of a built-in method.
    """
    own = {base.__module__ for base in cls.__mro__ if issubclass(base, Method)}
    own = {name for name in own if name.split(".")[0] not in sources.HOUSE}
    plugins = {known.__module__ for known in _classes.values()}
    return sources.fingerprint(own, plugins, _files) if own else None


def source_file(cls: type[Method]) -> str:
    """Path of the file that defines a method."""
    return str(_files.get(cls.__module__) or inspect.getsourcefile(cls) or cls.__module__)


def _names_in(module_name: str) -> list[str]:
    return sorted(name for name, cls in _classes.items() if cls.__module__ == module_name)


def _forget(module_name: str) -> None:
    for name in _names_in(module_name):
        del _classes[name]
    _files.pop(module_name, None)
    sys.modules.pop(module_name, None)


def _where(cls: type) -> str:
    return f"{cls.__qualname__} in {_files.get(cls.__module__, cls.__module__)}"


def _load_all() -> None:
    """Imports the built-in files and the installed plugins, once."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    package: ModuleType = importlib.import_module(__package__ or "methods")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in SUPPORT:
            importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
            if isinstance(loaded, type) and issubclass(loaded, Method) and loaded not in _classes.values():
                register(point.name)(loaded)
        except Exception as error:  # one broken plugin must not take the others away
            warnings.warn(f"the method plugin {point.name} ({point.value}) does not load: {error}", stacklevel=2)


# A spawned worker has not read the plugin files, and looks a class up by its module's name; hence the path goes along,
# and the state is pickled apart, since its enums belong to the same file.


def _reduce(method: Method) -> tuple[Any, ...]:
    cls = type(method)
    return _restore, (str(_files[cls.__module__]), cls.__qualname__, pickle.dumps(method.__dict__))


def _restore(path: str, qualname: str, state: bytes) -> Method:
    load_file(path)
    cls = next(c for c in _classes.values() if c.__qualname__ == qualname and _files.get(c.__module__) == Path(path))
    method = cls.__new__(cls)
    method.__dict__.update(pickle.loads(state))
    return method


def options(cls: type[Method]) -> dict[str, Any]:
    """A method's options with their defaults, in the order of its fields."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            values[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            values[item.name] = item.default_factory()
    return values
